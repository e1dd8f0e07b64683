"""Which process of the run this is, by what started it.

torchrun, `deepspeed --hostfile` and Ray Train set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Slurm's
srun sets names of its own, which are translated here. Without any of them the process is alone.
"""

import os
import re
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Annotated

import typer

from infra.errors import UsageError


class Launcher(StrEnum):
    """Who starts the processes of a run."""

    ENVIRONMENT = "env"
    RAY = "ray"


LauncherOption = Annotated[
    Launcher,
    typer.Option(
        "--launcher",
        help="env: torchrun, deepspeed or srun has started this process as one of several, or it is alone. "
        "ray: start --workers processes through Ray Train.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes with --launcher ray (default: one per GPU, or one)."),
]
LocalRankOption = Annotated[
    int | None, typer.Option("--local_rank", hidden=True, help="Given by the deepspeed launcher beside LOCAL_RANK.")
]

FIRST_PORT, PORTS = 20_000, 20_000


def check_workers(launcher: Launcher, workers: int | None) -> None:
    """Raise UsageError if --workers is given where it means nothing."""
    if workers is not None and launcher is not Launcher.RAY:
        raise UsageError(f"--workers {workers}: only --launcher ray starts processes; use torchrun --nproc-per-node")


def translate_slurm(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add RANK and so on for a process that srun started, unless a launcher between them has set them already.

    A batch script knows the job's task count as well, without being one of the tasks: only SLURM_STEP_NUM_TASKS, which
    srun alone sets, means that there are several of us. Raises UsageError if the first node's name cannot be read.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    if "RANK" in environment or tasks is None or int(tasks) == 1:
        return
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = tasks
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    if "MASTER_ADDR" not in environment:
        environment["MASTER_ADDR"] = first_node(environment.get("SLURM_STEP_NODELIST", ""))
    if "MASTER_PORT" not in environment:
        # The same in all tasks, another for another job on the node or another step of the job.
        job, step = int(environment["SLURM_JOB_ID"]), environment.get("SLURM_STEP_ID", "0")
        environment["MASTER_PORT"] = str(FIRST_PORT + (job * 16 + int(step)) % PORTS)


def first_node(node_list: str) -> str:
    """First host of Slurm's compressed list: `gpu[003-004,007],login1` -> `gpu003`. Task 0 runs there."""
    match = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,\[]*))?", node_list)
    if match is None:
        raise UsageError(
            f"SLURM_STEP_NODELIST: '{node_list}' names no node; set MASTER_ADDR to the host of task 0 before srun"
        )
    prefix, number, suffix = match.groups()
    return f"{prefix}{number or ''}{suffix or ''}"
