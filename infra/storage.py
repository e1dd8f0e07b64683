"""One door to everything stored: a local path or an `s3://bucket/key` URL, by the same functions.

Writes are atomic (a reader sees the old content or the new one, never half of it) and `if_absent=True` makes one
winner of many writers. S3 follows the standard AWS environment (credentials, AWS_ENDPOINT_URL, AWS_REGION).
"""

import hashlib
import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from infra.errors import JobError, UsageError
from infra.storage_disk import TEMPORARY as TEMPORARY
from infra.storage_disk import DiskWriter, clear_temporaries, list_folder, read_errors
from infra.storage_s3 import COPY_BYTES, S3Reader, S3Writer, abort_uploads
from infra.storage_s3_client import Unreachable as Unreachable
from infra.storage_s3_client import bucket_and_key, client, s3_errors

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, order=True, slots=True)
class FileEntry:
    """One stored file: `name` is its path relative to the listed URL, with '/' on every platform."""

    name: str
    size: int
    url: str


class Sink:
    """What `open_write` yields: takes bytes, knows their number and sha256; `created` is set when the file is there."""

    def __init__(self, target: DiskWriter | S3Writer) -> None:
        self._target, self._hash = target, hashlib.sha256()
        self.bytes = 0
        self.created: bool | None = None

    def write(self, data: Any) -> int:
        self._target.write(data)
        self._hash.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing stands before the end, so there is nothing to flush to; writers of archives ask for it."""

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hexadecimal."""
        return self._hash.hexdigest()


def is_s3(url: str) -> bool:
    """True for `s3://bucket/...`; anything else than that, a plain path or file:// is refused with UsageError.

    So is what is empty or a slip of the pen (`s3:/bucket`, `S3://bucket`): it would be a folder nobody meant.
    """
    scheme = SCHEME.match(url)
    if "\0" in url:
        raise UsageError(f"url {url!a}: holds a zero byte, which no file's name does; correct it")
    if url in ("", "file://"):
        raise UsageError(f"url '{url}': is empty; give a folder or s3://bucket/prefix")
    if scheme and scheme[0] not in ("s3://", "file://"):
        raise UsageError(f"url '{url}': scheme '{scheme[0]}' is not supported; use a folder or s3://bucket/prefix")
    if url[:3].lower() != "s3:":
        return False
    if not url.startswith("s3://") or url[5:6] in ("", "/"):
        raise UsageError(f"url '{url}': names no bucket; write s3://bucket/prefix")
    return True


def join(url: str, *parts: str) -> str:
    """Append path components to a folder or URL."""
    return "/".join([url.rstrip("/") or "/", *parts]) if is_s3(url) else str(Path(_path(url), *parts))


def absolute(url: str) -> str:
    """The same place for a process that stands in another folder, as Ray's workers do; s3:// URLs as they are."""
    return url if is_s3(url) else str(_path(url).absolute())


def exists(url: str) -> bool:
    """True if a file stands at `url`, or (local) a folder, or (s3) anything under the prefix. Raises JobError."""
    if not is_s3(url):
        with read_errors(url):
            return _path(url).exists()
    bucket, key = bucket_and_key(url)
    folder = key.rstrip("/") + "/" if key else ""
    with s3_errors(url):
        s3 = client(url)
        if key and not key.endswith("/"):  # "a" stands before "a-b", and "a-b" before "a/b": the first can be asked for
            listed = s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
            if not listed or listed[0]["Key"] == key or listed[0]["Key"].startswith(folder):
                return bool(listed)
        return "Contents" in s3.list_objects_v2(Bucket=bucket, Prefix=folder, MaxKeys=1)


def size(url: str) -> int:
    """Bytes of the file at `url`. Raises FileNotFoundError."""
    if not is_s3(url):
        return _path(url).stat().st_size
    bucket, key = bucket_and_key(url)
    with s3_errors(url):
        return int(client(url).head_object(Bucket=bucket, Key=key)["ContentLength"])


def open_read(url: str) -> BinaryIO:
    """Open for streaming reads. Raises FileNotFoundError; on S3 a broken connection is taken up again, or JobError."""
    if not is_s3(url):
        return _path(url).open("rb")
    return io.BufferedReader(S3Reader(url), COPY_BYTES)


def read_bytes(url: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    with open_read(url) as stream:
        return stream.read()


def read_range(url: str, start: int, size: int) -> bytes:
    """`size` bytes from byte `start` on, fewer where the file ends. Raises FileNotFoundError if any are wanted."""
    if not size:
        return b""  # S3 knows no empty range
    if is_s3(url):
        with io.BufferedReader(S3Reader(url, start, size), COPY_BYTES) as stream:
            return stream.read()
    with _path(url).open("rb") as file:
        file.seek(start)
        return file.read(size)


@contextmanager
def open_write(url: str, *, if_absent: bool = False) -> Iterator[Sink]:
    """Stream into a file that appears, whole, when the block ends, and not at all if it raises.

    With `if_absent`, the first of several writers wins; the others find `created` False. Memory is bounded: on S3 a
    store slower than its writer makes `write` wait. Raises JobError if the place cannot be written.
    """
    writer = S3Writer(url, if_absent) if is_s3(url) else DiskWriter(_path(url), if_absent)
    sink = Sink(writer)
    try:
        yield sink
        sink.created = writer.finish()
    except BaseException:
        writer.abort()
        raise


def write_bytes(url: str, data: bytes, *, if_absent: bool = False) -> bool:
    """Write atomically. With `if_absent`, the first of several writers wins and the others get False."""
    with open_write(url, if_absent=if_absent) as sink:
        sink.write(data)
    return bool(sink.created)


def read_json(url: str) -> Any:
    """Parse the JSON file at `url`. Raises FileNotFoundError; JobError if it cannot be read or is not JSON."""
    with read_errors(url):
        data = read_bytes(url)
    try:
        return json.loads(data)
    except ValueError as error:
        raise JobError(f"{url}: is not valid JSON ({error}); it is damaged, delete it to have it made again") from error


def write_json(url: str, value: Any, *, if_absent: bool = False) -> bool:
    """Write JSON data, indented and with a final newline; see write_bytes."""
    return write_bytes(url, (json.dumps(value, indent=2) + "\n").encode(), if_absent=if_absent)


def upload(local: Path, url: str) -> None:
    """Copy a local file to `url`, atomically; in parts with checksums on S3."""
    if not is_s3(url) and _path(url).resolve() == Path(local).resolve():
        return
    with Path(local).open("rb") as source, open_write(url) as sink:
        shutil.copyfileobj(source, sink, COPY_BYTES)  # type: ignore[misc]


def download(url: str, local: Path) -> None:
    """Copy the file at `url` to a local path, atomically. Raises FileNotFoundError; JobError if it cannot be read."""
    with read_errors(url), open_read(url) as source, open_write(str(local)) as sink:
        shutil.copyfileobj(source, sink, COPY_BYTES)  # type: ignore[misc]


def sha256(url: str) -> str:
    """sha256 of the file at `url`, in hexadecimal, read in bounded memory. Raises FileNotFoundError; JobError."""
    digest = hashlib.sha256()
    with read_errors(url), open_read(url) as stream:
        while data := stream.read(COPY_BYTES):
            digest.update(data)
    return digest.hexdigest()


def list_files(url: str, suffix: str = "") -> Iterator[FileEntry]:
    """All files below a folder or prefix whose name ends in `suffix`, in the order of their names. Raises JobError."""
    if is_s3(url):
        yield from _list_s3(url, suffix)
    elif _is_folder(url):
        for name, entry in list_folder(str(_path(url)), suffix):
            dangling = (
                entry.is_symlink() and not Path(entry.path).exists()
            )  # listed, so that a reader says it is missing
            yield FileEntry(name, entry.stat(follow_symlinks=not dangling).st_size, entry.path)


def delete(url: str) -> None:
    """Remove one file; nothing happens if it is already gone."""
    if is_s3(url):
        bucket, key = bucket_and_key(url)
        with s3_errors(url):
            client(url).delete_object(Bucket=bucket, Key=key)
    else:
        _path(url).unlink(missing_ok=True)


def clear_unfinished(url: str) -> int:
    """Remove what killed writers left below a folder or prefix; returns how many pieces.

    A writer that is still at work there loses what it wrote and gets a JobError: call it when all there is done. Some
    stores do not let everyone list unfinished uploads; a note says so then.
    """
    if not is_s3(url):
        return clear_temporaries(_path(url))
    try:
        return abort_uploads(url.rstrip("/") + "/")
    except Unreachable:
        raise
    except JobError as error:
        print(f"note: unfinished uploads of killed jobs, if any, are still there ({error})", file=sys.stderr)
        return 0


def local_folder(url: str, cache: Path) -> Path:
    """The folder itself if local, otherwise a copy of everything under the prefix, below `cache`."""
    if not is_s3(url):
        return _path(url)
    for entry in list_files(url):
        target = cache / entry.name
        if not target.exists() or target.stat().st_size != entry.size:
            target.parent.mkdir(parents=True, exist_ok=True)
            download(entry.url, target)
    return cache


def _is_folder(url: str) -> bool:
    with read_errors(url):
        return _path(url).is_dir()


def _path(url: str) -> Path:
    return Path(url.removeprefix("file://")).expanduser()


def _list_s3(url: str, suffix: str) -> Iterator[FileEntry]:
    bucket, prefix = bucket_and_key(url)
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    found = []
    with s3_errors(url):
        pages = client(url).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", []):
                name = item["Key"][len(prefix) :]
                if name and not name.endswith("/") and name.endswith(suffix):
                    found.append((name, item["Size"]))
    found.sort()  # S3 lists in this order; servers over a file system list "a/b" before "a-b"
    for name, bytes_of in found:
        yield FileEntry(name, bytes_of, f"s3://{bucket}/{prefix}{name}")
