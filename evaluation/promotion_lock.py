"""One promotion of a model at a time, whatever the number of machines.

MLflow cannot set an alias only if it still is what somebody saw. It can, in one transaction of its database, refuse to
create a registered model that exists: that makes the lock. It holds among those who take it, which is every promotion
and rollback of this package; somebody who moves an alias by hand does not ask for it.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from mlflow.exceptions import MlflowException

from evaluation.registry import client
from infra.errors import JobError
from infra.tracking import tracking_errors, user_name

WAIT_SECONDS = 30.0  # a lock is held for well under a second, while aliases and tags are written
_HOLDER, _SINCE = "lock.holder", "lock.since"


def lock_name(name: str) -> str:
    """The registered model that exists while the champion of `name` is being changed."""
    return f"{name}--changing-champion"


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """Hold the lock of a registered model. Raises JobError if somebody else holds it for long, and says who."""
    lock = lock_name(name)
    holder = {_HOLDER: f"{user_name()} on {socket.gethostname()} (process {os.getpid()})", _SINCE: _now()}
    deadline = time.monotonic() + WAIT_SECONDS
    with tracking_errors():
        while not _created(lock, holder):
            if time.monotonic() > deadline:
                raise JobError(_held(name, lock))
            time.sleep(0.2)
    try:
        yield
    finally:
        with tracking_errors():
            client().delete_registered_model(lock)


def _created(lock: str, tags: dict[str, str]) -> bool:
    try:
        client().create_registered_model(lock, tags=tags, description="Somebody is changing the champion.")
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            return False
        raise
    return True


def _held(name: str, lock: str) -> str:
    try:
        tags = client().get_registered_model(lock).tags
    except MlflowException:
        tags = {}  # let go this very moment
    who = f"{tags.get(_HOLDER, 'somebody')} since {tags.get(_SINCE, 'just now')}"
    return (
        f"model {name}: its champion is being changed by {who}; run the same command again, or, if that process is "
        f"gone, delete the registered model '{lock}' first"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
