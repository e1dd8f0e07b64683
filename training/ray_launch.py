"""`--launcher ray`: the processes of a run as workers of Ray Train, on this machine or on a cluster.

A lost worker (its process, its node) makes Ray start all of them anew, and they go on from the newest checkpoint as
the same command would. An error for the user is not tried again: workers that all have it end as if they were done.
SIGTERM to the command is passed on to the workers, which save and leave.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

from infra import storage
from infra.cluster import Cluster, cluster
from infra.errors import JobError, UsageError
from infra.recipe import Recipe
from infra.tracking import tracking_uri
from training.preemption import EXIT_PREEMPTED, notice_from, on_sigterm

MOST_RESTARTS = 5  # by failures; nodes that announce their end do not count
MOST_WAITS = 30  # for workers to start, of a minute each: a cluster may have to start nodes first
TOGETHER_SECONDS = 10.0  # within which workers with the same error all have it
SQLITE = "sqlite:///"

Run = Callable[[Recipe, str, str], str]


@ray.remote(num_cpus=0)
class Outcome:
    """How a run ended, outliving its workers."""

    def __init__(self) -> None:
        self.summary = ""
        self.error: UsageError | JobError | None = None
        self.num_failed = 0
        self.asked_to_stop = False
        self.has_stopped = False

    def ask_to_stop(self) -> None:
        """Let the workers save at the next step and leave."""
        self.asked_to_stop = True

    def is_asked_to_stop(self) -> bool:
        return self.asked_to_stop

    def stopped(self) -> None:
        """Note that the workers have left before the end."""
        self.has_stopped = True

    def succeed(self, summary: str) -> None:
        self.summary = summary

    def fail(self, error: UsageError | JobError) -> None:
        self.error = self.error or error
        self.num_failed += 1

    def failed(self) -> int:
        """How many workers have failed."""
        return self.num_failed

    def get(self) -> "tuple[str, UsageError | JobError | None, bool]":
        """Summary, error, and whether the workers have left before the end."""
        return self.summary, self.error, self.has_stopped


def run_on_ray(run: Run, recipe: Recipe, data: str, out: str, workers: int | None) -> str:
    """Call `run(recipe, data, out)` in `workers` processes (None: one per GPU, or one); returns what rank 0 returned.

    Local paths must mean the same on every node. Raises what `run` raises for the user, JobError if workers keep
    getting lost, and SystemExit when SIGTERM has stopped them.
    """
    with cluster(workers, log_to_driver=True) as found, tempfile.TemporaryDirectory(prefix="ray-train-") as scratch:
        gpus = found.num_gpus
        check_room(workers, found)
        outcome = Outcome.remote()  # type: ignore[attr-defined]
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "run": run,
                "recipe": dict(recipe.raw),
                "data": storage.absolute(data),
                "out": storage.absolute(out),
                "folder": str(Path.cwd()),
                "outcome": outcome,
            },
            scaling_config=ScalingConfig(num_workers=workers or gpus or 1, use_gpu=gpus > 0),
            run_config=RunConfig(  # type: ignore[call-arg]  # its annotation is that of Ray Train's first version
                storage_path=scratch,  # checkpoints are ours; Ray keeps its own notes only
                failure_config=FailureConfig(  # type: ignore[call-arg]
                    max_failures=MOST_RESTARTS, controller_failure_limit=MOST_WAITS
                ),
                worker_runtime_env={"env_vars": {"MLFLOW_TRACKING_URI": _tracking_everywhere()}},
            ),
        )
        try:
            with on_sigterm(outcome.ask_to_stop.remote):
                trainer.fit()
        except TrainingFailedError as error:
            _, known, _ = ray.get(outcome.get.remote())
            reason = str(error).strip().splitlines()[-1]
            what = f"workers failed {MOST_RESTARTS + 1} times, at last with"
            if isinstance(error, ControllerError):
                what = f"workers could not be started in {MOST_WAITS + 1} tries, at last for"
            raise known or JobError(
                f"--launcher ray: {what}: {reason}; look into Ray's logs and run the same command again to go on"
            ) from error
        summary, known, stopped = ray.get(outcome.get.remote())
        if known is not None:
            raise known
        if stopped:
            raise SystemExit(EXIT_PREEMPTED)
        return str(summary)


def check_room(workers: int | None, found: Cluster) -> None:
    """Raise UsageError for more workers than this machine has GPUs, or cores without any; a cluster may grow."""
    most, kind = (found.num_gpus, "GPUs") if found.num_gpus else (found.num_workers, "cores")
    if workers is None or workers <= most:
        return
    if "RAY_ADDRESS" in os.environ:
        print(f"note: --workers {workers}: the cluster has {most} {kind} now; waiting for more", file=sys.stderr)
    else:
        raise UsageError(
            f"--workers {workers}: this machine has {most} {kind} for as many; give fewer, or a cluster through "
            "RAY_ADDRESS"
        )


def _work(config: dict[str, Any]) -> None:
    """What each worker does. Ray Train has set RANK and so on, and formed the process group."""
    outcome = config["outcome"]
    if ray.get(outcome.get.remote())[1] is not None:
        return  # started again after an error that trying again does not mend
    if Path(config["folder"]).is_dir():
        os.chdir(config["folder"])  # relative paths in the recipe mean what they meant to the command
    try:
        with notice_from(lambda: bool(ray.get(outcome.is_asked_to_stop.remote()))):
            summary = config["run"](Recipe.from_dict(config["recipe"]), config["data"], config["out"])
    except SystemExit:
        ray.get(outcome.stopped.remote())
        return
    except (UsageError, JobError) as error:
        ray.get(outcome.fail.remote(error))
        if not _all_failed(outcome):
            raise  # the others may wait for this one: Ray ends them
        return
    if summary:
        ray.get(outcome.succeed.remote(summary))


def _all_failed(outcome: Any) -> bool:
    """True as soon as every worker has an error, False if some go on."""
    deadline = time.monotonic() + TOGETHER_SECONDS
    while ray.get(outcome.failed.remote()) < ray.train.get_context().get_world_size():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _tracking_everywhere() -> str:
    uri = tracking_uri()
    return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute()) if uri.startswith(SQLITE) else uri
