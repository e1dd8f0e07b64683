"""Batches from the shards of a dataset, read ahead in the background, in the order that `training.order` fixes."""

import queue
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from infra.errors import UsageError
from pipelines.dataset import Dataset
from training.engine import Processes
from training.order import SampleOrder
from training.shard_files import ShardFiles

Sample = dict[str, Any]

SHARDS_AHEAD_STEPS = 64  # how early a shard is asked for; copying a large one takes seconds


@dataclass(frozen=True)
class Batch:
    """One process's part of a global batch.

    slots: places of the samples in the global batch, from which their noise follows. arrays: field -> (n, ...) stacked.
    """

    step: int
    keys: list[str]
    slots: list[int]
    arrays: dict[str, np.ndarray]

    def micro(self, size: int) -> Iterator["Batch"]:
        """The same samples in pieces of `size`."""
        for start in range(0, len(self.keys), size):
            part = slice(start, start + size)
            arrays = {name: array[part] for name, array in self.arrays.items()}
            yield Batch(self.step, self.keys[part], self.slots[part], arrays)


class BatchLoader:
    """Iterates over this process's batches of the steps `start` .. `stop - 1`.

    Samples are read and decoded by `workers` threads up to `read_ahead` batches before they are needed; how many does
    not change the batches. A context manager: leaving it ends the threads. `wait_seconds` grows by the time the trainer
    waited.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: SampleOrder,
        fields: Collection[str],
        processes: Processes,
        start: int,
        stop: int,
        *,
        workers: int = 4,
        cache_bytes: int = 0,
        read_ahead: int = 8,
    ) -> None:
        self.fields = tuple(fields)
        self.rank = rank = processes.rank
        world_size = processes.world_size
        self._places = lru_cache(SHARDS_AHEAD_STEPS + 1)(lambda step: order.batch(step, rank, world_size))
        self.start, self.stop = start, stop
        self.wait_seconds = 0.0
        self._files = ShardFiles(dataset, cache_bytes)
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="loader")
        self._coming: deque[tuple[int, list[Future[Sample]]]] = deque()
        self._read_ahead = read_ahead
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=2)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, name="loader", daemon=True)

    def __enter__(self) -> "BatchLoader":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        while self._thread.is_alive():  # it may be waiting to put a batch that nobody will take
            with suppress(queue.Empty):
                self._ready.get_nowait()
            self._thread.join(timeout=0.05)
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._files.close()

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.start, self.stop):
            began = time.monotonic()
            item = self._ready.get()
            self.wait_seconds += time.monotonic() - began
            if isinstance(item, BaseException):
                raise item
            yield item

    def _read(self) -> None:
        try:
            for step in range(self.start, self.stop):
                if self._closing.is_set():
                    return
                ahead = range(step, min(step + SHARDS_AHEAD_STEPS, self.stop))
                self._files.want(dict.fromkeys(int(shard) for s in ahead for shard in self._places(s)[:, 0]))
                self._coming.append(
                    (step, [self._submit(int(shard), int(index)) for shard, index in self._places(step)])
                )
                if len(self._coming) > self._read_ahead:
                    self._ready.put(self._next())
            while self._coming and not self._closing.is_set():
                self._ready.put(self._next())
        except BaseException as error:  # handed to the trainer, who raises it
            self._ready.put(error)

    def _submit(self, shard: int, index: int) -> Future[Sample]:
        reader = self._files.reader(shard)
        return self._workers.submit(reader.sample, index, self.fields)

    def _next(self) -> Batch:
        step, coming = self._coming.popleft()
        samples = [sample.result() for sample in coming]
        first = self.rank * len(samples)
        return collate(step, samples, range(first, first + len(samples)), self.fields)


def collate(step: int, samples: Sequence[Sample], slots: Collection[int], fields: Collection[str]) -> Batch:
    """Stack samples into a batch."""
    arrays = {field: np.stack([sample[field] for sample in samples]) for field in fields}
    return Batch(step, [sample["key"] for sample in samples], list(slots), arrays)


def read_samples(dataset: Dataset, places: np.ndarray, fields: Collection[str], cache_bytes: int = 0) -> list[Sample]:
    """The samples at `places`, (n, 2) of shard, index in the shard; in their order."""
    files = ShardFiles(dataset, cache_bytes)
    files.want(dict.fromkeys(int(shard) for shard in places[:, 0]))
    try:
        return [files.reader(int(shard)).sample(int(index), fields) for shard, index in places]
    finally:
        files.close()


def check_processes(dataset: Dataset, order: SampleOrder, processes: Processes) -> None:
    """Raise UsageError if the dataset has fewer shards than there are processes."""
    try:
        order.check_processes(processes.world_size)
    except ValueError as error:
        raise UsageError(
            f"dataset '{dataset.url}': {error}; make it with a smaller shards.samples_per_shard, or start fewer "
            "processes"
        ) from error


def held_out_size(dataset: Dataset, wanted: int) -> int:
    """How many samples to hold out so that `wanted` of them exist and no photo stands on both sides.

    The variants of one photo are neighbours in the dataset, so whole groups of them are held out.
    """
    variants = dataset.shards_config.variants
    return -(-wanted // variants) * variants
