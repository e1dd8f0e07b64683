"""What goes wrong is said once, and nobody waits for a process that has given up.

With one process nothing is needed. With several, the first that fails claims the failure in the store the processes met
in, says its one line, and leaves when the others know. The others leave silently with the same exit code: at once if
they fail as well (the collective they are in breaks), and otherwise some seconds later, from whatever they are in.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch.distributed as dist

from infra.cli import EXIT_FAILED, EXIT_USAGE, say
from infra.errors import JobError, UsageError
from training.engine import Processes, join_processes, meeting_store, world_size

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # to end on its own, with files closed and the MLflow run marked as failed
FAREWELL_SECONDS = 5.0
LONGEST_EXPORT_SECONDS = 2 * 3600.0

CLAIM, FAILED, OVER, FINISHED = "claim", "failed", "over", "finished"


@contextmanager
def one_voice() -> Iterator[None]:
    """Around the work of a command that may run as several processes. Ends the process on an error for the user."""
    if world_size() == 1:
        yield
        return
    channel = _FailureChannel(join_processes(), meeting_store().clone())  # type: ignore[attr-defined]
    threading.Thread(target=channel.watch, name="watch", daemon=True).start()
    try:
        yield
        channel.finish()
    except (UsageError, JobError) as error:
        channel.fail(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED, error, say)
    except Exception as error:  # a bug of ours, or a collective that broke because another process had failed
        channel.fail(EXIT_FAILED, error, traceback.print_exception)
    finally:
        channel.closed.set()


class _FailureChannel:
    """The store, as far as failing and finishing go. It lives in the main process, or in torchrun.

    Whoever keeps the store waits for the answers of the others and is gone then. So the answer is the last thing that a
    process asks of the store, in both of its threads: another question could meet a store that has closed, of which
    torch writes a stack trace.
    """

    def __init__(self, processes: Processes, store: dist.Store) -> None:
        self.processes, self.store = processes, dist.PrefixStore("one-voice", store)
        self.closed = threading.Event()
        self.code: int | None = None
        """Exit code of a failure that another process has told about."""
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def fail(self, code: int, error: Exception, explain: Callable[[Exception], None]) -> NoReturn:
        """End this process; `explain` what is wrong if no other has failed before."""
        self.closed.set()  # from here on this process leaves by itself
        said = False
        try:
            if self._claim():
                explain(error)
                said = True
                self._announce(FAILED, str(code))
            elif self._wait_for(FAILED, FAREWELL_SECONDS) and self.processes.is_main:
                self._wait_for(OVER, FAREWELL_SECONDS)  # the store must outlive whoever still looks into it
        except dist.DistError:  # the main process has gone without a word, so what is known here is worth saying
            if not said and self.code is None:
                explain(error)
        sys.exit(code if self.code is None else self.code)

    def finish(self) -> None:
        """All leave together, so that a failure of the main process in its last work reaches everybody."""
        if self.processes.is_main:
            self._announce(FINISHED, "")
        else:
            self._wait_for(FINISHED, LONGEST_EXPORT_SECONDS)
            if self.code is not None:
                sys.exit(self.code)

    def watch(self) -> None:
        """Leave, from whatever this process is in, a while after another has failed."""
        while not self.closed.wait(POLL_SECONDS):
            try:
                failed = self._is_announced(FAILED)
            except dist.DistError:  # whoever kept the store is gone
                failed = True
            if failed:
                if not self.closed.wait(GRACE_SECONDS):
                    os._exit(EXIT_FAILED if self.code is None else self.code)
                return

    def _claim(self) -> bool:
        """Whether this process is the first to fail."""
        own = str(self.processes.rank)
        with self._lock:
            return FAILED not in self._known and self.store.compare_set(CLAIM, "", own).decode() == own

    def _announce(self, key: str, value: str) -> None:
        """Let all processes know, and wait until they do, but not for one that is gone."""
        with self._lock:
            self._known.add(key)
            self.store.set(key, value)
        others = [f"{key}-{rank}" for rank in range(self.processes.world_size) if rank != self.processes.rank]
        deadline = time.monotonic() + FAREWELL_SECONDS
        while not self.store.check(others) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 4)
        if key == FAILED:
            self.store.set(OVER, "")

    def _wait_for(self, key: str, seconds: float) -> bool:
        """Wait until another process tells `key`; False if it does not in time, or not any more."""
        deadline = time.monotonic() + seconds
        while not self._is_announced(key):
            if self._has_answered() or time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS / 4)
        return True

    def _has_answered(self) -> bool:
        """Whether the store may be closing, because this process has told whoever keeps it that it knows."""
        return bool(self._known) and not self.processes.is_main

    def _is_announced(self, key: str) -> bool:
        with self._lock:
            if key in self._known:
                return True
            if self._has_answered() or not self.store.check([key]):
                return False
            self._known.add(key)
            if key == FAILED:
                self.code = int(self.store.get(key))
            # Not a counter: that would wait for an answer from a store that may close as soon as it has counted.
            self.store.set(f"{key}-{self.processes.rank}", "")
            return True
