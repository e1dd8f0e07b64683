"""Ray: join the cluster this process belongs to, or start one inside it.

`ray job submit` and `RAY_ADDRESS` name a cluster; without one, Ray starts in this process with the local cores.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from infra.errors import JobError, UsageError


@dataclass(frozen=True)
class Cluster:
    """What the cluster offers this job: how many workers to run at once, and how many GPUs there are."""

    num_workers: int
    num_gpus: int
    cores_of_smallest_node: int


@contextmanager
def cluster(workers: int | None = None, log_to_driver: bool = False) -> Iterator[Cluster]:
    """Connect to Ray, yield what it has, and disconnect. `workers` bounds the parallelism.

    log_to_driver: show here what workers print.
    """
    # Ray warns about a future change of this default; CPU actors beside GPUs are what we want today.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    # The first error is told in one line; those of tasks still under way then would follow it with their tracebacks.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    started_here = not ray.is_initialized()
    if started_here:
        address = os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": os.cpu_count()}
        _check_address(address)
        try:
            ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=log_to_driver, **options)
        except ConnectionError as error:
            raise JobError(
                f"RAY_ADDRESS {address}: no Ray cluster answers there; start one or unset RAY_ADDRESS"
            ) from error
        except Exception as error:
            if type(error) not in (Exception, RuntimeError):  # so Ray says that its processes did not come up in time
                raise
            raise JobError(f"Ray did not start ({error}); run the same command again, under less load") from error
    try:
        resources = ray.cluster_resources()
        cpus = max(1, int(resources.get("CPU", 1)))
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        yield Cluster(
            num_workers=min(workers or cpus, cpus),
            num_gpus=int(resources.get("GPU", 0)),
            cores_of_smallest_node=min((cores for cores in nodes if cores), default=1),
        )
    finally:
        if started_here:
            ray.shutdown()


def check_start(error: RayActorError, what: str) -> None:
    """Raise a JobError if an actor could not even start: its next attempt could not either. `what`: "an encoder"."""
    if error.actor_init_failed:
        reason = str(error).strip().splitlines()[-1]
        raise JobError(
            f"{what} cannot start ({reason}); what is finished is kept: mend that and run the same command again"
        ) from error


def _check_address(address: str | None) -> None:
    """Ray tries for minutes to reach a cluster that is not there; a person wants to know within seconds."""
    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return  # "auto", "local" or a URL, which Ray looks up quickly itself
    for attempt in range(3):
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if attempt == 2:
                raise JobError(
                    f"RAY_ADDRESS {address}: no Ray cluster answers there; start one or unset RAY_ADDRESS"
                ) from error
            time.sleep(1)


def run_bounded(submit: Callable[[Any], "ray.ObjectRef[Any]"], jobs: Iterable[Any], at_once: int) -> Iterator[Any]:
    """Submit jobs with at most `at_once` in flight and yield their results as they finish, in any order."""
    waiting: list[ray.ObjectRef[Any]] = []
    for job in jobs:
        waiting.append(submit(job))
        if len(waiting) >= at_once:
            done, waiting = ray.wait(waiting, num_returns=1)
            yield _result(done[0])
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        yield _result(done[0])


def _result(reference: "ray.ObjectRef[Any]") -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UsageError | JobError):
            raise error.cause from None  # the one line for the user, without the worker's traceback around it
        raise
    except (WorkerCrashedError, NodeDiedError, ActorDiedError, OutOfMemoryError) as error:
        raise JobError(
            f"a worker died again and again ({type(error).__name__}: {str(error).splitlines()[0]}); what is finished "
            "is kept: mend the node (mostly its memory) and run the same command again"
        ) from error
