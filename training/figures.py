"""What is measured while training: averages between two reports, speed, and the share of time waiting for data."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from infra.progress import Bar, progress
from training.engine import Processes


class Figures:
    """Collects scalars of every micro batch and reports their averages over steps and processes."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._values: dict[str, list[Tensor]] = {}
        self._latest: Mapping[str, float] = {}
        self._samples = 0
        self._waited = self._waited_before = 0.0
        self._began = time.monotonic()

    def add(self, **scalars: Tensor) -> None:
        """Count the scalars of one micro batch. The same names must come in every process."""
        for name, value in scalars.items():
            self._values.setdefault(name, []).append(value.detach())

    def step_done(self, samples: int, waited_seconds: float, **latest: float) -> None:
        """Count one optimizer step.

        samples: of the global batch. waited_seconds: time this process has waited for data in all. `latest` is
        reported as last given.
        """
        self._samples += samples
        self._waited = waited_seconds
        self._latest = latest

    def glance(self, *names: str) -> dict[str, float]:
        """What a progress bar shows: averages since the last report in this process, and samples per second."""
        shown = {name: float(torch.stack(self._values[name]).mean()) for name in names if self._values.get(name)}
        return {**shown, "samples/s": self._samples / self._seconds()}

    def collect(self, **more: float) -> dict[str, float]:
        """Averages since the last call, over all processes, which must all call it; `more` is passed through."""
        means = {name: torch.stack(values).double().mean() for name, values in self._values.items()}
        if self.processes.world_size > 1 and means:
            joined = sum_over(self.processes, torch.stack(list(means.values())))
            means = dict(zip(means, joined / self.processes.world_size, strict=True))
        report = {
            **{name: float(value) for name, value in means.items()},
            **self._latest,
            "samples_per_second": self._samples / self._seconds(),
            "data_wait_share": (self._waited - self._waited_before) / self._seconds(),
            **more,
        }
        self._values = {}
        self._samples = 0
        self._waited_before = self._waited
        self._began = time.monotonic()
        return report

    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)


def sum_over(processes: Processes, values: Tensor) -> Tensor:
    """Element-wise sum of a tensor over all processes, which must all call it."""
    if processes.world_size > 1:
        values = values.to(processes.device)
        dist.all_reduce(values)
    return values.cpu()


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 RGB images over all channels, in dB; at most 100."""
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return 100.0 if error == 0.0 else min(100.0, 10.0 * math.log10(255.0**2 / error))


@contextmanager
def bar_of(processes: Processes, description: str, total: int, initial: int) -> Iterator[Bar]:
    """A progress bar over optimizer steps; the processes beside the main one get one that shows nothing."""
    if not processes.is_main:
        yield _SilentBar(description, total, "steps", initial)
        return
    with progress(description, total=total, unit="steps", initial=initial) as bar:
        yield bar


class _SilentBar(Bar):
    def show(self) -> None:
        return
