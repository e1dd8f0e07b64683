"""Streams of S3 behind infra.storage: reading that survives a cut connection, and uploads in parts.

What botocore cannot retry, a body that breaks off and an upload in parts, is dealt with here.
"""

import errno
import io
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import JobError
from infra.storage_s3_client import (
    Unreachable,
    bucket_and_key,
    client,
    endpoint,
    is_out_of_patience,
    s3_errors,
    status_of,
    waiting_since,
)

PART_BYTES = 8 << 20  # S3 wants at least 5 MiB in every part but the last
COPY_BYTES = 1 << 20
PARTS_AT_ONCE = 3  # with the one being filled, a writer holds four parts in memory, however slow the store is
MAX_PARTS = 10_000
BODY_ATTEMPTS = 4
CONFLICT_ATTEMPTS = 5
CONFLICT_SECONDS = 0.2  # before the second attempt, twice that before the third


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
        start = time.monotonic()
        for attempt in range(1, BODY_ATTEMPTS + 1):
            with s3_errors(self.url):
                try:
                    data = self.body.read(min(len(view), self.end - self.offset))
                    if not data and self.offset < self.end:
                        raise ConnectionResetError(errno.ECONNRESET, "the body ended early")
                    break
                except (BotoCoreError, OSError) as error:
                    if attempt == BODY_ATTEMPTS or is_out_of_patience(start):
                        raise Unreachable(f"{self.url}: reading from S3 at {endpoint()} broke off {attempt} times "
                                       f"({type(error).__name__}); run the same command again") from error  # fmt: skip
                    self.body.close()
                    bucket, key = bucket_and_key(self.url)
                    rest = f"bytes={self.offset}-{self.end - 1}"
                    with waiting_since(start):
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
        """False if another writer was first (412). 409 says that another is just writing, not that it will succeed."""
        for attempt in range(1, CONFLICT_ATTEMPTS + 1):
            try:
                request(Bucket=self.bucket, Key=self.key, **arguments, **self.condition)
                return True
            except ClientError as error:
                if self.condition and status_of(error) == 412:
                    return False
                if not self.condition or status_of(error) != 409 or attempt == CONFLICT_ATTEMPTS:
                    raise
            time.sleep(CONFLICT_SECONDS * attempt)
        raise AssertionError("the last attempt returns or raises")

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
