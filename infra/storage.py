"""One door to everything stored: a local path or an `s3://bucket/key` URL, by the same functions.

Writes are atomic (a reader sees the old content or the new one, never half of it) and `if_absent=True` makes one
winner of many writers. S3 follows the standard AWS environment (credentials, AWS_ENDPOINT_URL, AWS_REGION).
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from infra.errors import JobError, UsageError

MULTIPART = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4)


@dataclass(frozen=True, order=True)
class FileEntry:
    """One stored file: `name` is its path relative to the listed URL, with '/' on every platform."""

    name: str
    size: int
    url: str


def is_s3(url: str) -> bool:
    """True for `s3://bucket/...`; any other scheme than a plain path or file:// is refused with UsageError."""
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme not in ("", "file", "s3"):
        raise UsageError(f"url '{url}': scheme '{scheme}://' is not supported; use a folder or s3://bucket/prefix")
    return scheme == "s3"


def join(url: str, *parts: str) -> str:
    """Append path components to a folder or URL."""
    return "/".join([url.rstrip("/") or "/", *parts]) if is_s3(url) else str(Path(_path(url), *parts))


def exists(url: str) -> bool:
    """True if a file stands at `url`, or (local) a folder, or (s3) anything under the prefix."""
    if not is_s3(url):
        return _path(url).exists()
    with _s3_errors(url):
        bucket, key = _bucket_key(url)
        listed = _client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        return any(item["Key"] == key or not key or item["Key"].startswith(key.rstrip("/") + "/")
                   for item in listed.get("Contents", []))  # fmt: skip


def size(url: str) -> int:
    """Bytes of the file at `url`. Raises FileNotFoundError."""
    if not is_s3(url):
        return _path(url).stat().st_size
    with _s3_errors(url):
        bucket, key = _bucket_key(url)
        return int(_client().head_object(Bucket=bucket, Key=key)["ContentLength"])


def open_read(url: str) -> BinaryIO:
    """Open for streaming reads. Raises FileNotFoundError."""
    if not is_s3(url):
        return _path(url).open("rb")
    with _s3_errors(url):
        bucket, key = _bucket_key(url)
        return _client().get_object(Bucket=bucket, Key=key)["Body"]


def read_bytes(url: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    with open_read(url) as stream:
        return stream.read()


def write_bytes(url: str, data: bytes, *, if_absent: bool = False) -> bool:
    """Write atomically. With `if_absent`, the first of several writers wins and the others get False."""
    if is_s3(url):
        bucket, key = _bucket_key(url)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        with _s3_errors(url):
            try:
                _client().put_object(Bucket=bucket, Key=key, Body=data, ChecksumAlgorithm="SHA256", **condition)
            except ClientError as error:
                if if_absent and _status(error) in (409, 412):
                    return False
                raise
        return True
    path = _path(url)
    with _disk_errors(url), _temporary_beside(path) as temporary:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not if_absent:
            temporary.replace(path)
            return True
        try:
            os.link(temporary, path)  # unlike replace, this fails when the target exists
        except FileExistsError:
            return False
        return True


def read_json(url: str) -> Any:
    """Parse the JSON file at `url`. Raises FileNotFoundError; JobError if it is not JSON."""
    try:
        return json.loads(read_bytes(url))
    except json.JSONDecodeError as error:
        raise JobError(f"{url}: is not valid JSON ({error}); it is damaged, delete it to have it made again") from error


def write_json(url: str, value: Any, *, if_absent: bool = False) -> bool:
    """Write JSON data, indented and with a final newline; see write_bytes."""
    return write_bytes(url, (json.dumps(value, indent=2) + "\n").encode(), if_absent=if_absent)


def upload(local: Path, url: str) -> None:
    """Copy a local file to `url`, atomically; multipart with checksums on S3."""
    if is_s3(url):
        bucket, key = _bucket_key(url)
        with _s3_errors(url):
            extra = {"ChecksumAlgorithm": "SHA256"}
            _client().upload_file(str(local), bucket, key, ExtraArgs=extra, Config=MULTIPART)
        return
    path = _path(url)
    if path.resolve() == Path(local).resolve():
        return
    with _disk_errors(url), _temporary_beside(path) as temporary:
        shutil.copyfile(local, temporary)
        temporary.replace(path)


def download(url: str, local: Path) -> None:
    """Copy the file at `url` to a local path, atomically. Raises FileNotFoundError."""
    with _disk_errors(str(local)), _temporary_beside(Path(local)) as temporary:
        with open_read(url) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        temporary.replace(local)


def list_files(url: str, suffix: str = "") -> Iterator[FileEntry]:
    """All files below a folder or prefix whose name ends in `suffix`, in the order of their names."""
    if is_s3(url):
        yield from _list_s3(url, suffix)
        return
    root = _path(url)
    entries = []
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(folder, name)
            if name.endswith(suffix) and not name.startswith(".tmp-"):
                entries.append(FileEntry(path.relative_to(root).as_posix(), path.stat().st_size, str(path)))
    yield from sorted(entries)


def delete(url: str) -> None:
    """Remove one file; nothing happens if it is already gone."""
    if is_s3(url):
        bucket, key = _bucket_key(url)
        with _s3_errors(url):
            _client().delete_object(Bucket=bucket, Key=key)
    else:
        _path(url).unlink(missing_ok=True)


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


def _path(url: str) -> Path:
    return Path(url.removeprefix("file://")).expanduser()


def _bucket_key(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if not parts.netloc:
        raise UsageError(f"url '{url}': names no bucket; write s3://bucket/prefix")
    return parts.netloc, parts.path.lstrip("/")


@cache
def _client_of(process: int) -> Any:
    config = Config(
        retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=20, max_pool_connections=16
    )
    return boto3.session.Session().client("s3", config=config)  # not the default session: it keeps old credentials


def _client() -> Any:
    return _client_of(os.getpid())  # a client must not be shared across a fork


def _list_s3(url: str, suffix: str) -> Iterator[FileEntry]:
    bucket, prefix = _bucket_key(url)
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    with _s3_errors(url):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", []):
                name = item["Key"][len(prefix) :]
                if name and not name.endswith("/") and name.endswith(suffix):
                    yield FileEntry(name, item["Size"], f"s3://{bucket}/{item['Key']}")


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of `path`, gone afterwards whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    os.fchmod(handle, 0o644)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        with suppress(FileNotFoundError):  # it was renamed into place
            Path(name).unlink()


@contextmanager
def _disk_errors(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise JobError(f"{url}: no space left on the device; free some and run the same command again") from error
        if isinstance(error, PermissionError | NotADirectoryError):
            raise JobError(f"{url}: cannot be written ({error.strerror}); choose another folder") from error
        raise


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def _s3_errors(url: str) -> Iterator[None]:
    """Turn what boto3 raises into FileNotFoundError or one clear JobError (its text never holds a secret)."""
    try:
        yield
    except NoCredentialsError as error:
        raise JobError(f"{url}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
    except ClientError as error:
        code, status = error.response.get("Error", {}).get("Code", "?"), _status(error)
        if code == "NoSuchBucket":
            raise JobError(f"{url}: the bucket does not exist; create it or correct the URL") from error
        if status == 404:
            raise FileNotFoundError(errno.ENOENT, "no such object", url) from error
        if status in (401, 403):
            raise JobError(f"{url}: S3 refused the credentials ({code}); check the AWS_* environment") from error
        raise JobError(f"{url}: S3 answered {status} {code}; run the same command again") from error
    except BotoCoreError as error:
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "AWS")
        raise JobError(f"{url}: S3 at {endpoint} cannot be used ({type(error).__name__}); is it up?") from error
