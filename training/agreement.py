"""All processes of a run go the same way: they fail together, and they start from the same premises."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from infra.errors import JobError, UsageError
from training.engine import Processes


def gather(processes: Processes, value: Any) -> list[Any]:
    """The values of all processes in the order of their ranks, in every process. All must call it."""
    if processes.world_size == 1:
        return [value]
    values = [None] * processes.world_size
    dist.all_gather_object(values, value, group=processes.control)
    return values


@contextmanager
def all_or_none(processes: Processes) -> Iterator[None]:
    """Run a block in every process; if it fails in one with an error for the user, that error is raised in all.

    Nobody waits for a process that has given up. The block must not contain collectives.
    """
    error: UsageError | JobError | None = None
    try:
        yield
    except (UsageError, JobError) as raised:
        error = raised
    first = next((found for found in gather(processes, error) if found is not None), None)
    if first is not None:
        raise first from error
