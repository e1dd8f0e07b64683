"""S3 behind infra.storage: one client, its errors in words, streams that survive a cut connection.

botocore retries every single request (timeouts, refused connections, 5xx, throttling) with back-off; what it cannot
retry, a body that breaks off and an upload in parts, is dealt with here.
"""

import errno
import io
import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from infra.errors import JobError, UsageError

PART_BYTES = 8 << 20  # S3 wants at least 5 MiB in every part but the last
COPY_BYTES = 1 << 20
PARTS_AT_ONCE = 3  # with the one being filled, a writer holds four parts in memory, however slow the store is
MAX_PARTS = 10_000
BODY_ATTEMPTS = 4

# The n-th retry waits up to 0.05 * 2^n s. A first contact fails soon when nobody is there; later requests wait
# 13 s on average, 26 at most, in which a server may come back. One that accepts connections and says nothing costs the
# time of a read for every attempt: after PATIENCE_SECONDS there is no other, so it is given up after 30 s.
FIRST_CONTACT = Config(retries={"mode": "standard", "total_max_attempts": 7}, connect_timeout=2.5, read_timeout=2.5)
LATER = Config(
    retries={"mode": "standard", "total_max_attempts": 10}, connect_timeout=5, read_timeout=15, max_pool_connections=16
)
PATIENCE_SECONDS = 20.0


class Unreachable(JobError):
    """The store does not answer: what else there is to ask of it would only take as long again."""


def bucket_and_key(url: str) -> tuple[str, str]:
    """Split `s3://bucket/key`; a key may hold any character, '#' and '?' too. Raises UsageError without a bucket."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise UsageError(f"url '{url}': names no bucket; write s3://bucket/prefix")
    return bucket, key


def client(url: str) -> Any:
    """The client of this process, after a first contact with the bucket of `url`. Call it inside `s3_errors`."""
    bucket, key = bucket_and_key(url)
    if (os.getpid(), bucket) not in _met:
        hasty = boto3.session.Session().client("s3", config=FIRST_CONTACT)
        try:
            hasty.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        except ClientError as error:
            if status_of(error) == 404 and error.response["Error"]["Code"] != "NoSuchBucket":
                raise JobError(f"{url}: no S3 server answers at {endpoint()}; check AWS_ENDPOINT_URL") from error
            raise
        _met.add((os.getpid(), bucket))
    return _client(os.getpid())


_met: set[tuple[int, str]] = set()


@cache
def _client(process: int) -> Any:
    """`process`: a client must not be shared across a fork. Not the default session, it keeps old credentials."""
    s3 = boto3.session.Session().client("s3", config=LATER)
    s3.meta.events.register("before-call.s3", _start_clock)
    s3.meta.events.register_first("needs-retry.s3", _end_patience)
    return s3


def _start_clock(params: dict[str, Any], **_: Any) -> None:
    params["context"]["started"] = time.monotonic()


def _end_patience(caught_exception: Exception | None, request_dict: dict[str, Any], **_: Any) -> None:
    """Of an attempt that failed: raise what it raised if the request has taken too long for another one."""
    if caught_exception is not None and time.monotonic() - request_dict["context"]["started"] > PATIENCE_SECONDS:
        raise caught_exception


def forget_clients() -> None:
    """Read the AWS environment anew at the next use."""
    _client.cache_clear()
    _met.clear()


class S3Reader(io.RawIOBase):
    """One object as a stream. A connection that breaks is taken up again where it broke, on the same object."""

    def __init__(self, url: str, start: int = 0, size: int | None = None) -> None:
        """From byte `start`, at most `size` bytes; by default the whole object."""
        self.url, self.offset = url, start
        bucket, key = bucket_and_key(url)
        if not key:
            raise IsADirectoryError(errno.EISDIR, "is a bucket, not an object in one", url)
        wanted = {} if size is None else {"Range": f"bytes={start}-{start + size - 1}"}
        with s3_errors(url):
            answer = client(url).get_object(Bucket=bucket, Key=key, **wanted)
        self.body, self.etag, self.end = answer["Body"], answer["ETag"], start + int(answer["ContentLength"])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        for attempt in range(1, BODY_ATTEMPTS + 1):
            with s3_errors(self.url):
                try:
                    data = self.body.read(min(len(view), self.end - self.offset))
                    if not data and self.offset < self.end:
                        raise ConnectionResetError(errno.ECONNRESET, "the body ended early")
                    break
                except (BotoCoreError, OSError) as error:
                    if attempt == BODY_ATTEMPTS:
                        raise Unreachable(f"{self.url}: reading from S3 at {endpoint()} broke off {attempt} times "
                                       f"({type(error).__name__}); run the same command again") from error  # fmt: skip
                    self.body.close()
                    bucket, key = bucket_and_key(self.url)
                    rest = f"bytes={self.offset}-{self.end - 1}"
                    answer = client(self.url).get_object(Bucket=bucket, Key=key, Range=rest, IfMatch=self.etag)
                    self.body = answer["Body"]
        view[: len(data)] = data
        self.offset += len(data)
        return len(data)

    def readall(self) -> bytes:
        """All that is left, in one buffer of its size. (That of the base class gathers pieces and joins them.)"""
        whole = io.BytesIO()
        if (size := self.end - self.offset) > 0:
            whole.seek(size - 1)
            whole.write(b"\0")  # takes the memory now, and `getvalue` hands it out without a copy
        with whole.getbuffer() as view:
            place = 0
            while place < size:
                place += self.readinto(view[place : place + COPY_BYTES])
        return whole.getvalue()

    def close(self) -> None:
        self.body.close()
        super().close()


class S3Writer:
    """Streams bytes into one object, in parts when there are many. Nothing is visible before `finish`.

    Every part carries its sha256 for the server to check. `write` waits while PARTS_AT_ONCE parts are under way: a slow
    store slows its writer and memory stays bounded. The object may have MAX_PARTS * PART_BYTES = 80 GB.
    """

    def __init__(self, url: str, if_absent: bool) -> None:
        self.url, self.condition = url, {"IfNoneMatch": "*"} if if_absent else {}
        self.bucket, self.key = bucket_and_key(url)
        self.blocks: list[bytes] = []
        self.filled = 0
        self.upload_id: str | None = None
        self.num_parts = 0
        self.parts: list[dict[str, Any]] = []
        self.under_way: set[Future[dict[str, Any]]] = set()
        self.is_reachable = True
        self.pool = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="s3-part")
        with s3_errors(url):
            self.client = client(url)

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        while view:
            if self.filled == PART_BYTES:  # so the last part, which `finish` sends, is never empty
                self._send(self._taken())
            room = PART_BYTES - self.filled
            self.blocks.append(bytes(view[:room]))
            self.filled += len(self.blocks[-1])
            view = view[room:]

    def _taken(self) -> bytes:
        data = b"".join(self.blocks)
        self.blocks, self.filled = [], 0
        return data

    def finish(self) -> bool:
        """Make the object appear. False if it was to be absent and another writer was first."""
        with self._errors():
            if self.upload_id is None:
                done = self._finish(self.client.put_object, Body=self._taken(), ChecksumAlgorithm="SHA256")
            else:
                self._send(self._taken())
                self._collect(at_most=0)
                parts = sorted(self.parts, key=lambda part: part["PartNumber"])
                done = self._finish(
                    self.client.complete_multipart_upload, UploadId=self.upload_id, MultipartUpload={"Parts": parts}
                )
        if not done:
            self.abort()
        self.pool.shutdown()
        return done

    def abort(self) -> None:
        """Leave nothing behind on the server, as far as it still answers."""
        for future in self.under_way:
            future.cancel()
        self.pool.shutdown()
        if self.upload_id is not None and self.is_reachable:
            with suppress(ClientError, BotoCoreError):  # the error under way says more; `abort_uploads` tidies up later
                abort_upload(self.client, self.bucket, self.key, self.upload_id)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with s3_errors(self.url):
                yield
        except Unreachable:
            self.is_reachable = False
            raise

    def _finish(self, request: Any, **arguments: Any) -> bool:
        try:
            request(Bucket=self.bucket, Key=self.key, **arguments, **self.condition)
        except ClientError as error:
            if self.condition and status_of(error) in (409, 412):
                return False
            raise
        return True

    def _send(self, data: bytes) -> None:
        with self._errors():
            if self.upload_id is None:
                answer = self.client.create_multipart_upload(
                    Bucket=self.bucket, Key=self.key, ChecksumAlgorithm="SHA256"
                )
                self.upload_id = answer["UploadId"]
            self._collect(at_most=PARTS_AT_ONCE - 1)
            self.num_parts += 1
            if self.num_parts > MAX_PARTS:
                raise JobError(f"{self.url}: more than {MAX_PARTS * PART_BYTES >> 30} GiB in one file; make it smaller")
            self.under_way.add(self.pool.submit(self._send_part, self.num_parts, data))

    def _send_part(self, number: int, data: bytes) -> dict[str, Any]:
        answer = self.client.upload_part(
            Bucket=self.bucket, Key=self.key, UploadId=self.upload_id, PartNumber=number, Body=data,
            ChecksumAlgorithm="SHA256",
        )  # fmt: skip
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        return part | ({"ChecksumSHA256": answer["ChecksumSHA256"]} if "ChecksumSHA256" in answer else {})

    def _collect(self, at_most: int) -> None:
        """Wait until at most `at_most` parts are under way; raises what one of them raised."""
        while len(self.under_way) > at_most:
            done, self.under_way = wait(self.under_way, return_when=FIRST_COMPLETED)
            self.parts += [future.result() for future in done]


def abort_upload(s3: Any, bucket: str, key: str, upload_id: str) -> None:
    """Abort an upload in parts; nothing happens if it is already gone. May raise ClientError or BotoCoreError."""
    try:
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    except ClientError as error:
        if status_of(error) != 404:
            raise


def abort_uploads(url: str) -> int:
    """Abort all unfinished uploads below a prefix; returns how many there were."""
    bucket, prefix = bucket_and_key(url)
    count = 0
    with s3_errors(url):
        pages = client(url).get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for upload in page.get("Uploads", []):
                abort_upload(client(url), bucket, upload["Key"], upload["UploadId"])
                count += 1
    return count


def status_of(error: ClientError) -> int:
    """HTTP status of an S3 answer, 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def endpoint() -> str:
    """The S3 endpoint as it may be shown: without user and password."""
    parts = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://AWS")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@contextmanager
def s3_errors(url: str) -> Iterator[None]:
    """Turn what boto3 raises into FileNotFoundError or one clear JobError (its text never holds a secret)."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise JobError(
            f"{url}: no S3 credentials ({type(error).__name__}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except ClientError as error:
        code, status = error.response.get("Error", {}).get("Code", "?"), status_of(error)
        if code == "NoSuchBucket":
            raise JobError(f"{url}: the bucket does not exist; create it or correct the URL") from error
        if code == "NoSuchUpload":
            raise JobError(f"{url}: this upload was aborted by another; run the same command again") from error
        if status == 404:
            raise FileNotFoundError(errno.ENOENT, "no such object", url) from error
        if status in (401, 403):
            raise JobError(f"{url}: S3 refused the credentials ({code}); check the AWS_* environment") from error
        raise JobError(f"{url}: S3 at {endpoint()} answered {status} {code}; run the same command again") from error
    except BotoCoreError as error:
        raise Unreachable(f"{url}: S3 at {endpoint()} cannot be used ({type(error).__name__}); is it up?") from error
    except ValueError as error:
        if "Invalid endpoint" not in str(error):
            raise
        raise JobError(f"AWS_ENDPOINT_URL '{endpoint()}': is no URL; write http://host:port") from error
