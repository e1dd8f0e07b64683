"""SIGTERM, the notice that schedulers give before they take a machine away: save at the next step, then leave.

Slurm (preemption, time limit, `scancel`), Kubernetes and torchrun (which passes it on to its processes) all send it.
"""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import NoReturn, Self

import torch
import torch.distributed as dist

from training.engine import Processes, barrier

EXIT_PREEMPTED = 143  # 128 + SIGTERM: what schedulers that tell by the exit code restart a job on


class Preemption:
    """Watches for SIGTERM while its context is open; all processes agree on the step at which they stop."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._asked = False
        self._before: signal._HANDLER = signal.SIG_DFL

    def __enter__(self) -> Self:
        if _in_main_thread():  # elsewhere (a worker of Ray Train) signals are not ours to take
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _in_main_thread():
            signal.signal(signal.SIGTERM, self._before)

    def asked(self) -> bool:
        """Whether any process was asked to stop, the same answer in all of them, which must all call it."""
        if self.processes.world_size == 1:
            return self._asked
        flag = torch.tensor(int(self._asked))
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.processes.control)
        return bool(flag)

    def leave(self, step: int) -> NoReturn:
        """End the command with the documented exit code, after the checkpoint of `step` was saved."""
        if self.processes.is_main:
            print(f"stopped by SIGTERM, saved at step {step}; run the same command again to go on", file=sys.stderr)
        barrier(self.processes)  # a launcher ends the others as soon as one is gone
        raise SystemExit(EXIT_PREEMPTED)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
