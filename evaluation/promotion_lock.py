"""One promotion of a model at a time, whatever the number of machines.

MLflow cannot set an alias only if it still is what somebody saw. It can, in one transaction of its database, refuse to
create a registered model that exists: that makes the lock. It holds among those who take it, which is every promotion
and rollback of this package; somebody who moves an alias by hand does not ask for it. The lock of a process that was
killed is taken over.
"""

import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

from mlflow.exceptions import MlflowException

from evaluation.registry import client
from infra.errors import JobError
from infra.tracking import tracking_errors, user_name

STALE_SECONDS = 60.0  # a lock is held for well under a second, while aliases and tags are written
GIVE_UP_SECONDS = 300.0
_HOLDER = "lock.holder"


def lock_name(name: str) -> str:
    """The registered model that exists while the champion of `name` is being changed."""
    return f"{name}--changing-champion"


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """Hold the lock of a registered model, taking it over from one who has held it for STALE_SECONDS.

    Raises JobError if others hold it for GIVE_UP_SECONDS, and says who.
    """
    lock = lock_name(name)
    me = f"{user_name()} on {socket.gethostname()}, process {os.getpid()}, since {_now()} ({uuid4().hex[:8]})"
    begun = changed = time.monotonic()
    seen: str | None = None
    with tracking_errors():
        while not _created(lock, me):
            holder, now = _holder(lock), time.monotonic()
            if holder != seen:
                seen, changed = holder, now
            elif holder is not None and now - changed > STALE_SECONDS and _taken_over(lock, holder, me):
                print(f"note: took over the lock of {holder}, who left it behind", file=sys.stderr)
                break
            if now - begun > GIVE_UP_SECONDS:
                raise JobError(
                    f"model {name}: its champion is being changed by {seen}; run the same command again, or, if that "
                    f"process is gone, delete the registered models that begin with '{lock}' first"
                )
            time.sleep(0.2)
    try:
        yield
    finally:
        with tracking_errors():
            if _holder(lock) == me:
                client().delete_registered_model(lock)


def _taken_over(lock: str, holder: str, me: str) -> bool:
    """Make the lock ours if it still is `holder`'s. Of several who try, the one who creates a model named after the
    holder may; it looks again, since somebody may have done all of this just before."""
    ticket = f"{lock}--{hashlib.sha256(holder.encode()).hexdigest()[:12]}"
    if not _created(ticket, me):
        return False
    try:
        if _holder(lock) != holder:
            return False
        client().set_registered_model_tag(lock, _HOLDER, me)
        return True
    finally:
        client().delete_registered_model(ticket)


def _created(lock: str, me: str) -> bool:
    try:
        client().create_registered_model(lock, tags={_HOLDER: me}, description="Somebody is changing the champion.")
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            return False
        raise
    return True


def _holder(lock: str) -> str | None:
    """Who holds the lock; None if it was let go this very moment."""
    try:
        return str(client().get_registered_model(lock).tags.get(_HOLDER, "somebody"))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
