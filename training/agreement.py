"""All processes of a run go the same way: they fail together, and they start from the same premises."""

import json
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from infra import storage
from infra.errors import JobError, UsageError
from infra.recipe import difference, digest
from infra.version import code_version
from training.engine import Processes, from_main
from training.order import SampleOrder


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


def agree(processes: Processes, recipe: Mapping[str, Any], order: SampleOrder, out: str) -> None:
    """Check at the start that all processes are about to train the same thing, each its own share of it.

    recipe: resolved, with the dataset's digest. Raises UsageError in all of them: for another recipe, dataset, code or
    --out in one of them, for an --out that is another folder there, for samples or shards that two of them would read.
    """
    if processes.world_size == 1:
        return
    plain = json.loads(json.dumps(recipe))
    premises = {"code": code_version(), "torch": torch.__version__, "out": out, "recipe": digest(plain)}
    everyone = gather(processes, (socket.gethostname(), premises, plain))
    _, expected, wanted = everyone[0]
    for rank, (host, found, theirs) in enumerate(everyone):
        if found != expected:
            changes = difference({**expected, "recipe": wanted}, {**found, "recipe": theirs})
            raise UsageError(
                f"process {rank} on {host} would train something else than process 0 ({'; '.join(changes[:5])}); give "
                "all the same arguments, dataset and code"
            )
    _check_shares(processes, order)
    _check_folder(processes, out)


def _check_shares(processes: Processes, order: SampleOrder) -> None:
    shares = gather(processes, order.batch(0, processes.rank, processes.world_size))
    if not np.array_equal(np.concatenate(shares), order.batch(0)):
        sizes = ", ".join(str(len(share)) for share in shares)
        raise UsageError(
            f"the processes' samples of the first step ({sizes}) are not the global batch cut into shares; the "
            "launcher gave wrong ranks: check RANK and WORLD_SIZE"
        )
    if order.separates(processes.world_size):
        read = gather(processes, order.shards(processes.rank, processes.world_size))
        twice = sum(map(len, read)) - len(set.union(*read))
        if twice >= processes.world_size:  # one where the samples of a process end and those of the next begin
            raise UsageError(
                f"the processes would read {twice} shards more than once in the first epoch, although each has its "
                "own; they draw different orders: install the same NumPy on all nodes"
            )


def _check_folder(processes: Processes, out: str) -> None:
    """A local --out must be one folder for all, or each node would keep a part of every checkpoint."""
    if storage.is_s3(out):
        return
    mark = storage.join(out, f".tmp-{from_main(processes, secrets.token_hex(8))}")
    with all_or_none(processes):
        if processes.is_main:
            storage.write_bytes(mark, b"")
    seen = gather(processes, (socket.gethostname(), storage.exists(mark)))
    if processes.is_main:
        storage.delete(mark)
    blind = [host for host, sees in seen if not sees]
    if blind:
        raise UsageError(
            f"--out {out}: is another folder on {blind[0]} than on {seen[0][0]}; give one that all nodes share, or "
            "s3://bucket/prefix"
        )
