"""The S3 client of a process: how long it waits for a store, and its errors in words.

botocore retries every single request (timeouts, refused connections, 5xx, throttling) with back-off.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from infra.errors import JobError, UsageError

# The n-th retry waits up to 0.05 * 2^n s. A first contact fails soon when nobody is there; later requests wait
# 13 s on average, 26 at most, in which a server may come back. One that accepts connections and says nothing costs the
# time of a read for every attempt: after PATIENCE_SECONDS there is no other, so it is given up after 24 s.
FIRST_CONTACT = Config(retries={"mode": "standard", "total_max_attempts": 7}, connect_timeout=2.5, read_timeout=2.5)
LATER = Config(
    retries={"mode": "standard", "total_max_attempts": 10}, connect_timeout=5, read_timeout=12, max_pool_connections=16
)
PATIENCE_SECONDS = 15.0

_waiting_since: ContextVar[float | None] = ContextVar("waiting_since", default=None)


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
    params["context"]["started"] = _waiting_since.get() or time.monotonic()


def _end_patience(caught_exception: Exception | None, request_dict: dict[str, Any], **_: Any) -> None:
    """Of an attempt that failed: raise what it raised if the request has taken too long for another one."""
    if caught_exception is not None and is_out_of_patience(request_dict["context"]["started"]):
        raise caught_exception


def is_out_of_patience(since: float) -> bool:
    """True if what has not answered since then (`time.monotonic`) is not to be asked once more."""
    return time.monotonic() - since > PATIENCE_SECONDS


@contextmanager
def waiting_since(start: float) -> Iterator[None]:
    """What is asked inside has been waited for since `start`, by something else that did not answer."""
    token = _waiting_since.set(start)
    try:
        yield
    finally:
        _waiting_since.reset(token)


def forget_clients() -> None:
    """Read the AWS environment anew at the next use."""
    _client.cache_clear()
    _met.clear()


def status_of(error: ClientError) -> int:
    """HTTP status of an S3 answer, 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def endpoint() -> str:
    """The S3 endpoint as it may be shown: without user and password."""
    parts = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://AWS")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@contextmanager
def s3_errors(url: str) -> Iterator[None]:
    """Turn what boto3 raises into FileNotFoundError or one clear JobError (its text never holds a secret).

    A name that S3 does not take is a UsageError.
    """
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
    except ParamValidationError as error:
        raise UsageError(f"url '{url}': S3 knows no such bucket or key; write s3://bucket/prefix") from error
    except BotoCoreError as error:
        raise Unreachable(f"{url}: S3 at {endpoint()} cannot be used ({type(error).__name__}); is it up?") from error
    except ValueError as error:
        if "Invalid endpoint" not in str(error):
            raise
        raise JobError(f"AWS_ENDPOINT_URL '{endpoint()}': is no URL; write http://host:port") from error
