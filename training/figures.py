"""What is measured while training: averages between two reports, speed, memory, and the share of time spent waiting."""

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from infra.progress import Bar, progress
from training.engine import Processes

GLANCE_SECONDS = 0.5  # looking at a loss makes the device finish its queue


class Figures:
    """Collects scalars of every micro batch and reports their averages over steps and processes."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._sums: dict[str, Tensor] = {}  # name -> (2,) sum and count
        self._latest: Mapping[str, float] = {}
        self._samples = 0
        self._waited = self._waited_before = 0.0
        self._began = time.monotonic()
        self._seen: tuple[float, dict[str, float]] = (-GLANCE_SECONDS, {})

    def add(self, **scalars: Tensor) -> None:
        """Count the scalars of one micro batch. The same names must come in every process."""
        for name, value in scalars.items():
            self._count(name, value.detach().double(), torch.ones((), dtype=torch.float64, device=value.device))

    def add_indexed(self, name: str, index: Tensor, values: Tensor, size: int) -> None:
        """Count values (B,) separately by their index (B,) in 0..size-1, reported as `name`0, `name`1, ..."""
        sums = values.new_zeros(size, dtype=torch.float64).index_add_(0, index, values.detach().double())
        counts = torch.zeros_like(sums).index_add_(0, index, torch.ones_like(values, dtype=torch.float64))
        for number in range(size):
            self._count(f"{name}{number}", sums[number], counts[number])

    def step_done(self, samples: int, waited_seconds: float, **latest: float) -> None:
        """Count one optimizer step.

        samples: of the global batch. waited_seconds: time this process has waited for data in all. `latest` is
        reported as last given.
        """
        self._samples += samples
        self._waited = waited_seconds
        self._latest = latest

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """What happens inside (a validation, a checkpoint) is not part of the training speed."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

    def glance(self, *names: str) -> dict[str, float]:
        """What a progress bar shows: averages since the last report in this process, and samples per second."""
        now = time.monotonic()
        if now - self._seen[0] >= GLANCE_SECONDS:
            means = {name: float(self._sums[name][0] / self._sums[name][1]) for name in names if name in self._sums}
            self._seen = (now, {**means, "samples/s": self._samples / self._seconds()})
        return self._seen[1]

    def collect(self, **more: float) -> dict[str, float]:
        """Averages since the last call, over all processes, which must all call it; `more` is passed through."""
        seconds = self._seconds()
        device = self.processes.device
        waited = torch.tensor([self._waited - self._waited_before, seconds], dtype=torch.float64)
        joined = sum_over(
            self.processes,
            torch.stack([*(value.to(device) for value in self._sums.values()), waited.to(device)]),
        )
        *means, waited_share = (joined[:, 0] / joined[:, 1]).tolist()
        counted = (joined[:, 1] > 0).tolist()
        report = {
            **{name: mean for name, mean, seen in zip(self._sums, means, counted[:-1], strict=True) if seen},
            **self._latest,
            "samples_per_second": self._samples / seconds,
            "data_wait_share": waited_share,
            "peak_memory_gib": peak_memory_gib(self.processes),
            **more,
        }
        self._sums = {}
        self._samples = 0
        self._waited_before = self._waited
        self._began = time.monotonic()
        return report

    def _count(self, name: str, total: Tensor, count: Tensor) -> None:
        entry = torch.stack([total, count])
        self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)


def sum_over(processes: Processes, values: Tensor) -> Tensor:
    """Element-wise sum of a tensor over all processes, which must all call it; on the CPU."""
    if processes.world_size > 1:
        values = values.to(processes.device)
        dist.all_reduce(values)
    return values.cpu()


def peak_memory_gib(processes: Processes) -> float:
    """Most memory that the hungriest process has held so far: of its GPU, or of the machine where there is none."""
    if processes.device.type == "cuda":
        held = torch.cuda.max_memory_allocated(processes.device) / 2**30
    else:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    most = torch.tensor(held, dtype=torch.float64, device=processes.device)
    if processes.world_size > 1:
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return float(most)


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
