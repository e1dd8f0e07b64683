"""One shard on disk: a WebDataset tar whose bytes depend only on its samples, and the record that commits it.

URL/shards/000012.tar     members in the order of their keys, no times, no owners
URL/shards/000012.json    written last; a shard without it does not exist
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from webdataset.tariterators import group_by_keys, tar_file_iterator

from infra import storage
from infra.errors import JobError
from pipelines.png import decode_png as decode_png
from pipelines.png import encode_png as encode_png


@dataclass(frozen=True)
class Reject:
    """A planned sample that was left out, and why."""

    uri: str
    reason: str
    detail: str


@dataclass(frozen=True)
class CommitRecord:
    """What is known of a finished shard. `rejects` lists every sample left out of it."""

    shard: int
    sha256: str
    bytes: int
    num_samples: int
    seconds: float
    code_version: str
    rejects: list[Reject] = field(default_factory=list)

    @property
    def rejects_by_reason(self) -> dict[str, int]:
        return dict(Counter(reject.reason for reject in self.rejects))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rejects_by_reason": self.rejects_by_reason}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "CommitRecord":
        value = {key: item for key, item in value.items() if key != "rejects_by_reason"}
        return cls(**value | {"rejects": [Reject(**reject) for reject in value["rejects"]]})


def tar_url(url: str, shard: int) -> str:
    return storage.join(url, "shards", f"{shard:06d}.tar")


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


def write_shard(url: str, shard: int, samples: Iterable[dict[str, Any]]) -> tuple[str, int, int]:
    """Write the tar of a shard, whole or not at all. Returns (sha256, bytes, number of samples).

    `samples`: {"__key__": key, "<field>.<extension>": bytes, ...}. Committing is the caller's, with `commit_shard`.
    """
    with tempfile.TemporaryDirectory(prefix="shard-") as folder:
        path, count = Path(folder, "shard.tar"), 0
        with path.open("wb") as target, wds.TarWriter(target, encoder=False, mtime=0, user="", group="") as tar:
            for sample in samples:
                tar.write(sample)
                count += 1
        with path.open("rb") as written:
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        storage.upload(path, tar_url(url, shard))
        return sha256, path.stat().st_size, count


def commit_shard(url: str, record: CommitRecord) -> None:
    """Make the shard exist. Two writers of one plan wrote the same bytes, so whose record stands does not matter."""
    storage.write_json(record_url(url, record.shard), record.to_json(), if_absent=True)


def committed_shards(url: str) -> dict[int, CommitRecord]:
    """Commit records of a dataset by shard number."""
    records = {}
    for entry in storage.list_files(storage.join(url, "shards"), suffix=".json"):
        record = CommitRecord.from_json(storage.read_json(entry.url))
        records[record.shard] = record
    return records


def read_shard(url: str, record: CommitRecord, check: bool = False) -> Iterator[dict[str, bytes | str]]:
    """Members of a shard grouped by sample: {"__key__": key, "hq.png": bytes, ...}, in the order of the keys.

    With `check`, the whole tar is compared with its sha256 first. Raises JobError if the tar is missing or damaged.
    """
    location = tar_url(url, record.shard)
    try:
        data = storage.read_bytes(location)
    except FileNotFoundError as error:
        raise JobError(f"{location}: is missing although it was committed; {remedy(url, record)}") from error
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
