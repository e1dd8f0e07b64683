"""SIGTERM, the notice that schedulers give before they take a machine away: save at the next step, then leave.

Slurm (preemption, time limit, `scancel`), Kubernetes and torchrun (which passes it on to its processes) all send it.
Workers of Ray get no signal: theirs goes to the command that started them, and they ask there.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType, TracebackType
from typing import NoReturn, Self

import torch
import torch.distributed as dist

from training.engine import Processes, barrier

EXIT_PREEMPTED = 143  # 128 + SIGTERM: what schedulers that tell by the exit code restart a job on
ASK_SECONDS = 1.0

_ask_for_notice: ContextVar[Callable[[], bool] | None] = ContextVar("ask_for_notice", default=None)


@contextmanager
def notice_from(ask: Callable[[], bool]) -> Iterator[None]:
    """Inside, in this thread, `ask()` says whether to stop; the main process asks once a second at most."""
    token = _ask_for_notice.set(ask)
    try:
        yield
    finally:
        _ask_for_notice.reset(token)


@contextmanager
def on_sigterm(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` in a thread of its own when SIGTERM comes; what it interrupts goes on."""

    def start(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=act, name="sigterm", daemon=True).start()

    before = signal.signal(signal.SIGTERM, start)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Preemption:
    """Watches for SIGTERM while its context is open; all processes agree on the step at which they stop."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._asked = False
        self._ask = _ask_for_notice.get() if processes.is_main else None
        self._next_ask = 0.0
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
        if self._ask is not None and not self._asked and time.monotonic() >= self._next_ask:
            self._asked = self._ask()
            self._next_ask = time.monotonic() + ASK_SECONDS
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
