"""Commands of ours in real processes that start in a tenth of a second: forked from a server that has imported torch.

`start("train", [...], ranks=2)` gives each process the environment that a launcher would. `fate` makes a process kill
itself with SIGKILL at a named point, as a machine that fails does.
"""

import dataclasses
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.server_process import free_port

TRAINING = Path(__file__).parents[2] / "training"
PRELOADED = ["tests.training.preloaded"]


@dataclass(frozen=True)
class Fate:
    """Where a process kills itself: in step or checkpoint `step` (counted from 1), at `point` of POINTS."""

    point: str
    step: int


@dataclass
class Rank:
    """One process of a command, with what it writes."""

    process: multiprocessing.Process
    output: Path
    errors: Path
    code: int | None = field(default=None)

    @property
    def stderr(self) -> str:
        return self.errors.read_text()

    @property
    def stdout(self) -> str:
        return self.output.read_text()


def torchrun_environment(ranks: int) -> list[dict[str, str]]:
    """RANK and so on for processes of one machine, as torchrun sets them."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def start(
    module: str,
    arguments: Sequence[object],
    logs: Path,
    ranks: int = 1,
    environments: Sequence[Mapping[str, str]] | None = None,
    fates: Mapping[int, Fate] | None = None,
    extra: Mapping[int, Sequence[object]] | None = None,
    limit_bytes: int | None = None,
) -> list[Rank]:
    """Start training/<module>.py in `ranks` processes; without `environments` as torchrun would.

    fates: rank -> where it dies. extra: rank -> further arguments of it alone. limit_bytes: no file of these processes
    may grow beyond it (as on a full disk).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    if environments is None:
        environments = torchrun_environment(ranks) if ranks > 1 else [{}]
    started = []
    for number, environment in enumerate(environments):
        stem = logs / f"{module}-{time.monotonic_ns()}-{number}"
        output, errors = stem.with_suffix(".out"), stem.with_suffix(".err")
        inherited = {
            name: os.environ[name] for name in os.environ if name.startswith(("MLFLOW_", "AWS_", "PATH", "PYTHONPATH"))
        }
        own = [str(argument) for argument in (*arguments, *(extra or {}).get(number, ()))]
        process = context.Process(
            target=_work,
            args=(str(TRAINING / f"{module}.py"), own, str(output), str(errors), {**inherited, **environment},
                  (fates or {}).get(number), limit_bytes),
        )  # fmt: skip
        for log in (output, errors):
            log.touch()
        process.start()
        started.append(Rank(process, output, errors))
    return started


def wait(started: Sequence[Rank], seconds: float = 90) -> list[int]:
    """Exit codes of the processes (negative: the signal they died of); fails if one is still there after `seconds`."""
    deadline = time.monotonic() + seconds
    for rank in started:
        rank.process.join(max(deadline - time.monotonic(), 0.01))
    stuck = [number for number, rank in enumerate(started) if rank.process.is_alive()]
    for number in stuck:
        started[number].process.kill()
        started[number].process.join()
    assert not stuck, f"ranks {stuck} hang: {[rank.stderr[-2000:] for rank in started]}"
    return [rank.process.exitcode for rank in started]


def run_ranks(module: str, arguments: Sequence[object], logs: Path, ranks: int = 1, **options) -> list[Rank]:
    """Start a command and wait until it has succeeded in all processes."""
    started = start(module, arguments, logs, ranks, **options)
    codes = wait(started)
    assert codes == [0] * len(started), [rank.stderr[-3000:] for rank in started]
    return started


def _work(script: str, arguments: list[str], output: str, errors: str, environment: dict[str, str], fate: Fate | None,
          limit_bytes: int | None) -> None:  # fmt: skip
    for path, descriptor in ((output, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
    os.environ.update(environment)
    os.chdir(environment.get("PWD", "."))
    if fate is not None:
        POINTS[fate.point](fate.step)
    if limit_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    import torch

    torch.set_num_threads(1)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _in_step(step: int) -> None:
    """Between the forward and the backward pass."""
    from training import engine

    build = engine.build_engine

    def build_and_die(*arguments, **options):
        built = build(*arguments, **options)
        backward, calls = built.backward, []

        def dying_backward(*arguments, **options):
            calls.append(1)
            if len(calls) > (step - 1) * built.gradient_accumulation_steps():
                _die()
            return backward(*arguments, **options)

        built.backward = dying_backward
        return built

    for module in ("training.denoiser_trainer", "training.autoencoder_step"):
        sys.modules[module].build_engine = build_and_die


def _around_save(before: str | None) -> Callable[[int], None]:
    """In the save of a step: where training.checkpoint is about to call the function `before`, or at the end."""

    def arrange(step: int) -> None:
        from training import checkpoint

        save = checkpoint.Checkpoints.save

        def dying_save(self, at, *arguments):
            if at == step and before is not None:
                target = checkpoint.Checkpoints if hasattr(checkpoint.Checkpoints, before) else checkpoint
                setattr(target, before, lambda *_, **__: _die())
            save(self, at, *arguments)
            if at == step:
                _die()

        checkpoint.Checkpoints.save = dying_save

    return arrange


def _not_finite(step: int) -> None:
    """From this step on the loss of this process is NaN; it does not die of it."""
    from training import denoiser_trainer

    good = denoiser_trainer.denoising_loss

    def bad(engine, *arguments, **options):
        loss = good(engine, *arguments, **options)
        if engine.global_steps < step - 1:
            return loss
        return dataclasses.replace(loss, total=loss.total * float("nan"))

    denoiser_trainer.denoising_loss = bad


def _other_code(_: int) -> None:
    """This process runs another version of the code; it does not die of it."""
    from training import agreement

    agreement.code_version = lambda: "0.0.1 (another)"


POINTS = {
    "other code": _other_code,
    "nan": _not_finite,
    "step": _in_step,
    "saved": _around_save(None),
    "writing": _around_save("write_tree"),  # the moments are there, the weights not
    "marking": _around_save("_publish"),
    "cleaning": _around_save("drop"),  # the new one is whole, the oldest has not gone yet
}
