"""Progress of long work: a rich bar on a terminal, a plain line now and then where there is none (logs, CI)."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_INTERVAL_SECONDS = 10.0


class Bar(ABC):
    """A running count with rate and figures. Both looks share it, so that callers do not care which one is shown."""

    def __init__(self, description: str, total: int, unit: str, initial: int) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self.initial = initial
        self.started = time.monotonic()
        self.figures: dict[str, Any] = {}

    def advance(self, count: int = 1, **figures: float | str) -> None:
        """Count `count` more units as done and show the latest `figures` (e.g. loss=0.12)."""
        self.done += count
        self.figures.update(figures)
        self.show()

    @property
    def rate(self) -> float:
        """Units per second in this run (work found done at the start does not count)."""
        return (self.done - self.initial) / max(time.monotonic() - self.started, 1e-9)

    def figures_text(self) -> str:
        shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in self.figures.items()}
        return " ".join(f"{key} {value}" for key, value in shown.items())

    @abstractmethod
    def show(self) -> None:
        """Bring what a person sees up to date."""


class _PlainBar(Bar):
    last_shown = 0.0

    def show(self, final: bool = False) -> None:
        now = time.monotonic()
        if not final and now - self.last_shown < PLAIN_INTERVAL_SECONDS:
            return
        self.last_shown = now
        parts = [f"{self.description}: {self.done}/{self.total} {self.unit}"]
        if self.rate > 0:
            parts.append(f"{self.rate:.3g} {self.unit}/s")
        if final:
            parts.append(_duration(now - self.started))
        elif self.rate > 0:
            parts.append(f"{_duration((self.total - self.done) / self.rate)} left")
        print(f"{', '.join(parts)} {self.figures_text()}".rstrip(), file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))


class _RichBar(Bar):
    def __init__(self, description: str, total: int, unit: str, initial: int, bars: Progress) -> None:
        super().__init__(description, total, unit, initial)
        self.bars = bars
        self.row = bars.add_task(description, total=total, completed=initial, rate="", figures="")

    def show(self) -> None:
        rate = f"{self.rate:.3g} {self.unit}/s"
        self.bars.update(self.row, completed=self.done, rate=rate, figures=self.figures_text())


@contextmanager
def progress(description: str, total: int, unit: str, initial: int = 0) -> Iterator[Bar]:
    """Show the progress of `total` units of work, of which `initial` were already done.

    On a terminal: a bar with count, rate, time left and figures. Elsewhere: one line every 10 s and one at the end.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        plain = _PlainBar(description, total, unit, initial)
        yield plain
        plain.show(final=True)
        return
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as bars:
        yield _RichBar(description, total, unit, initial, bars)
