"""Batches from the shards of a dataset, read ahead in the background, in the order that `training.order` fixes."""

import queue
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipelines.dataset import Dataset, iter_shard
from training.engine import Processes
from training.order import SampleOrder

Sample = dict[str, Any]

SHARDS_AHEAD_STEPS = 64  # how early a shard is asked for; decoding a large one takes seconds


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


class ShardCache:
    """Decoded shards, loaded by threads when they are asked for and dropped when they are no longer wanted."""

    def __init__(self, dataset: Dataset, fields: Collection[str], threads: int = 2) -> None:
        self.dataset = dataset
        self.fields = tuple(fields)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="shard")
        self._shards: dict[int, Future[list[Sample]]] = {}

    def want(self, shards: Collection[int]) -> None:
        """Start loading these shards and forget all others."""
        self._shards = {shard: self._shards.get(shard) or self._pool.submit(self._load, shard) for shard in shards}

    def sample(self, shard: int, index: int) -> Sample:
        """One sample of a wanted shard; waits for it to be loaded. Raises what reading it raised."""
        return self._shards[shard].result()[index]

    def close(self) -> None:
        """Stop loading."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, shard: int) -> list[Sample]:
        return list(iter_shard(self.dataset, shard, self.fields))


class BatchLoader:
    """Iterates over this process's batches of the steps `start` .. `stop - 1`.

    A context manager: leaving it ends the background thread. `wait_seconds` grows by the time the trainer waited.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: SampleOrder,
        fields: Collection[str],
        processes: Processes,
        start: int,
        stop: int,
        read_ahead: int = 8,
    ) -> None:
        self.fields = tuple(fields)
        self.rank = rank = processes.rank
        world_size = processes.world_size
        self._places = lru_cache(SHARDS_AHEAD_STEPS + 1)(lambda step: order.batch(step, rank, world_size))
        self.start, self.stop = start, stop
        self.wait_seconds = 0.0
        self._cache = ShardCache(dataset, fields)
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=read_ahead)
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
        self._cache.close()

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
                self._cache.want(dict.fromkeys(int(shard) for s in ahead for shard in self._places(s)[:, 0]))
                self._ready.put(self._batch(step))
        except BaseException as error:  # handed to the trainer, who raises it
            self._ready.put(error)

    def _batch(self, step: int) -> Batch:
        samples = [self._cache.sample(int(shard), int(index)) for shard, index in self._places(step)]
        first = self.rank * len(samples)
        return collate(step, samples, range(first, first + len(samples)), self.fields)


def collate(step: int, samples: list[Sample], slots: Collection[int], fields: Collection[str]) -> Batch:
    """Stack samples into a batch."""
    arrays = {field: np.stack([sample[field] for sample in samples]) for field in fields}
    return Batch(step, [sample["key"] for sample in samples], list(slots), arrays)


def held_out_samples(dataset: Dataset, order: SampleOrder, count: int, fields: Collection[str]) -> list[Sample]:
    """`count` of the samples that are never trained on, spread evenly over them (all, if there are fewer)."""
    places = order.held_out()
    if len(places) > count:
        places = places[np.linspace(0, len(places) - 1, count).round().astype(int)]
    samples = []
    for shard in np.unique(places[:, 0]):
        wanted = set(places[places[:, 0] == shard, 1].tolist())
        decoded = enumerate(iter_shard(dataset, int(shard), fields))
        samples += [sample for index, sample in decoded if index in wanted]
    return samples


def held_out_size(dataset: Dataset, wanted: int) -> int:
    """How many samples to hold out so that `wanted` of them exist and no photo stands on both sides.

    The variants of one photo are neighbours in the dataset, so whole groups of them are held out.
    """
    variants = int(dataset.plan["recipe"].get("shards", {}).get("variants", 1))
    return -(-wanted // variants) * variants
