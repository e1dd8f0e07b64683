"""One shard on disk: a WebDataset tar whose bytes depend only on its samples, and the record that commits it.

URL/shards/000012.tar     members in the order of their keys, no times, no owners
URL/shards/000012.json    written last; a shard without it does not exist

No tar is ever replaced. Whoever finds one without a record (a killed job left it, or another job is about to commit it)
writes beside it, and takes it over if the bytes are equal; so the record that was first always names its own bytes.
"""

import hashlib
import io
import json
import re
import secrets
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import webdataset as wds
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from webdataset.tariterators import group_by_keys, tar_file_iterator

from infra import storage
from infra.errors import JobError
from infra.version import code_version
from pipelines.codec import decode_png as decode_png
from pipelines.codec import encode_png as encode_png

RECORDS_AT_ONCE = 8
TAR_NAME = re.compile(r"(\d{6,})(?:-[0-9a-f]{8})?\.tar")
"""The usual name of a shard's tar, and the one where that was taken (see `make_shard`)."""


Count = Annotated[int, Field(strict=True, ge=0)]


@dataclass(frozen=True)
class Reject:
    """A planned sample that was left out, and why."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    uri: str
    reason: str
    detail: str


@dataclass(frozen=True)
class CommitRecord:
    """What is known of a finished shard. `rejects` lists every sample left out of it."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    shard: Count
    sha256: str
    bytes: Count
    num_samples: Count
    seconds: Annotated[float, Field(strict=True)]
    code_version: str
    rejects: list[Reject] = field(default_factory=list)
    tar: Annotated[str, Field(pattern=rf"^({TAR_NAME.pattern})?$")] = ""
    """Name of the tar if it is not the usual one (see `make_shard`)."""

    @property
    def rejects_by_reason(self) -> dict[str, int]:
        return dict(Counter(reject.reason for reject in self.rejects))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rejects_by_reason": self.rejects_by_reason}

    @classmethod
    def from_json(cls, value: Any) -> "CommitRecord":
        """The record that `to_json` made this of. Raises ValueError that names what is missing or of another type."""
        if isinstance(value, dict):
            value = {key: item for key, item in value.items() if key != "rejects_by_reason"}
        try:
            return _RECORD.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error


_RECORD = TypeAdapter(CommitRecord)


def tar_url(url: str, shard: int | CommitRecord) -> str:
    """Where a shard's tar stands: the one its record names, or the usual one of a shard number."""
    number = shard if isinstance(shard, int) else shard.shard
    return storage.join(url, "shards", (not isinstance(shard, int) and shard.tar) or f"{number:06d}.tar")


def record_url(url: str, shard: int) -> str:
    return storage.join(url, "shards", f"{shard:06d}.json")


def remedy(url: str, record: CommitRecord) -> str:
    """What to do about a shard that is not what its record says."""
    return f"delete {record_url(url, record.shard)} and run the command that made the dataset again"


def sample_key(shard: int, slot: int) -> str:
    """`slot` is the place in the plan, so that a reject leaves a gap and renames nobody."""
    return f"{shard:06d}-{slot:06d}"


def encode_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def encode_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def make_shard(
    url: str, shard: int, samples: Iterable[dict[str, Any]], rejects: list[Reject] | None = None
) -> CommitRecord:
    """Stream the tar of a shard to its place and commit it. Returns the record that stands.

    `samples`: {"__key__": key, "<field>.<extension>": bytes, ...}; `rejects` may grow while they are taken. If another
    job commits this shard first, its record is returned and what was written here is removed again. Raises JobError.
    """
    started = time.monotonic()
    usual = tar_url(url, shard)
    name = f"{shard:06d}-{secrets.token_hex(4)}.tar" if storage.exists(usual) else ""
    mine = storage.join(url, "shards", name) if name else usual
    try:
        with storage.open_write(mine, if_absent=True) as sink:
            count = _write_tar(sink, samples)
    except storage.Unreachable:
        raise
    except JobError:
        standing = read_record(url, shard)
        if standing is None:
            raise
        return standing  # the job that committed it cleared this write away
    if name or not sink.created:
        equal = storage.exists(usual) and storage.sha256(usual) == sink.sha256
        if name and equal:
            storage.delete(mine)
            name, mine = "", usual
        elif not name and not equal and read_record(url, shard) is None:
            raise JobError(
                f"{usual}: another job puts other bytes there, so it runs another version of the code; let it end and "
                "run the same command again"
            )
    seconds = round(time.monotonic() - started, 3)
    record = CommitRecord(shard, sink.sha256, sink.bytes, count, seconds, code_version(), rejects or [], name)
    if storage.write_json(record_url(url, shard), record.to_json(), if_absent=True):
        return record
    standing = read_record(url, shard)
    if standing is None:
        raise JobError(
            f"{record_url(url, shard)}: another job wrote it first, and now it is gone; run the same command again"
        )
    if standing.tar != record.tar:
        storage.delete(mine)
    return standing


def _write_tar(sink: storage.Sink, samples: Iterable[dict[str, Any]]) -> int:
    count = 0
    with wds.TarWriter(sink, encoder=False, mtime=0, user="", group="") as tar:
        for sample in samples:
            tar.write(sample)
            count += 1
    return count


def clear_leftovers(url: str, records: Iterable[CommitRecord]) -> None:
    """Remove what killed and losing jobs left beside the shards. Only for a dataset whose shards are all committed.

    What is not called as `make_shard` calls the tars of these shards is somebody else's and stays.
    """
    records = list(records)
    shards, named = {record.shard for record in records}, {tar_url(url, record) for record in records}
    for entry in storage.list_files(storage.join(url, "shards"), suffix=".tar"):
        called = TAR_NAME.fullmatch(entry.name)
        if called and int(called[1]) in shards and storage.join(url, "shards", entry.name) not in named:
            storage.delete(entry.url)
    storage.clear_unfinished(storage.join(url, "shards"))


def read_record(url: str, shard: int) -> CommitRecord | None:
    """The commit record of a shard, or None if it is not finished."""
    try:
        return record_at(record_url(url, shard))
    except FileNotFoundError:
        return None


def record_at(location: str) -> CommitRecord:
    """The commit record stored at a URL. Raises FileNotFoundError; JobError if it is none, or that of another shard."""
    value = storage.read_json(location)
    try:
        record = CommitRecord.from_json(value)
        if location.rpartition("/")[2] != f"{record.shard:06d}.json":
            raise ValueError(f"it is that of shard {record.shard}")
        return record
    except ValueError as error:
        raise JobError(f"{location}: is no commit record ({error}); delete it to have its shard made again") from error


def committed_shards(url: str) -> dict[int, CommitRecord]:
    """Commit records of a dataset by shard number."""
    entries = storage.list_files(storage.join(url, "shards"), suffix=".json")
    with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:  # thousands of small files, each a round trip on S3
        found = pool.map(record_at, (entry.url for entry in entries))
        return {record.shard: record for record in found}


def records_of_all(url: str, done: dict[int, CommitRecord], num_shards: int) -> list[CommitRecord]:
    """The records of a dataset's shards, in order. Raises JobError unless there is one of each, and no other."""
    for shard in sorted(set(range(num_shards)) ^ done.keys()):
        if shard in done:
            raise JobError(f"{record_url(url, shard)}: its shard is not in the plan of {num_shards}; delete it")
        raise JobError(f"{url}: shard {shard} was not made; run the same command again")
    return [done[shard] for shard in range(num_shards)]


@contextmanager
def tar_errors(url: str, record: CommitRecord) -> Iterator[None]:
    """Turn a tar that is missing or cannot be read into one clear JobError."""
    location = tar_url(url, record)
    try:
        yield
    except FileNotFoundError as error:
        raise JobError(f"{location}: is missing although it was committed; {remedy(url, record)}") from error
    except OSError as error:
        raise JobError(f"{location}: cannot be read ({error.strerror}); mend its rights or its disk") from error


def read_shard(url: str, record: CommitRecord, check: bool = False) -> Iterator[dict[str, bytes | str]]:
    """Members of a shard grouped by sample: {"__key__": key, "hq.png": bytes, ...}, in the order of the keys.

    With `check`, the whole tar is compared with its sha256 first. Raises JobError if the tar is missing or damaged.
    """
    location = tar_url(url, record)
    with tar_errors(url, record):
        data = storage.read_bytes(location)
    if len(data) != record.bytes:
        raise JobError(f"{location}: has {len(data)} bytes, its record says {record.bytes}; {remedy(url, record)}")
    if check and hashlib.sha256(data).hexdigest() != record.sha256:
        raise JobError(f"{location}: sha256 differs from its record; {remedy(url, record)}")
    members = ({**member, "__url__": location} for member in tar_file_iterator(io.BytesIO(data)))
    try:
        for sample in group_by_keys(members):
            del sample["__url__"]
            yield sample
    except (tarfile.TarError, ValueError) as error:
        raise JobError(f"{location}: damaged ({error}); {remedy(url, record)}") from error
