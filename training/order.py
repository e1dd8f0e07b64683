"""Which samples make up the global batch of a step: a pure function of (dataset, seed, step).

An epoch visits every sample once. The shards are shuffled and their samples laid end to end; that line is cut into
equal lanes, and every batch takes the same number of samples from each lane. For any number of processes that divides
the lanes a process owns whole ones, side by side, so each shard is read by one process (two where its last lane ends
inside it); other numbers work as well, but neighbours then share a lane and its shards. The batch is the same whoever
reads it. Any step can be computed without those before it, which is how a resume seeks.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

MAX_LANES = 64  # a batch of 96 has 32 lanes, for up to as many processes; a process alone reads as many shards at once


class SampleOrder:
    """Endless order over shards with `counts` samples each.

    `held_out` samples at the very end of the dataset never appear. Raises ValueError if fewer than a batch remain.
    """

    def __init__(self, counts: Sequence[int], global_batch_size: int, seed: int, held_out: int = 0) -> None:
        self.counts = list(counts)
        self.total = sum(counts) - held_out
        if self.total < global_batch_size:
            raise ValueError(
                f"{max(self.total, 0)} samples to train on are fewer than one global batch of {global_batch_size}"
            )
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.num_lanes = math.gcd(global_batch_size, MAX_LANES)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)  # lanes are at most a sample apart

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every sample is seen once."""
        return self.total / self.global_batch_size

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Samples of step `step` (from 0) for one of `world_size` processes: (n, 2) of shard, index in the shard.

        Concatenated over the ranks this is the global batch.
        """
        per_lane = self.global_batch_size // self.num_lanes
        per_rank = self.global_batch_size // world_size
        slots = range(rank * per_rank, (rank + 1) * per_rank)
        return np.array([self._at(slot // per_lane, step * per_lane + slot % per_lane) for slot in slots])

    def held_out(self, count: int) -> np.ndarray:
        """`count` of the samples that are never trained on, spread evenly over them (all, if there are fewer).

        (n, 2) of shard, index in the shard; in dataset order.
        """
        places = self._line(range(len(self.counts)))[self.total :]
        if len(places) > count:
            places = places[np.linspace(0, len(places) - 1, count).round().astype(int)]
        return places

    def check_processes(self, world_size: int) -> None:
        """Raise ValueError if there are fewer shards than processes: then not even one shard is for one alone."""
        shards = sum(count > 0 for count in self.counts)
        if shards < world_size:
            raise ValueError(f"{shards} shards are too few for {world_size} processes, which would all share them")

    def separates(self, world_size: int) -> bool:
        """Whether so many processes own whole lanes."""
        return self.num_lanes % world_size == 0

    def shards(self, rank: int, world_size: int) -> set[int]:
        """What one of `world_size` processes reads in the first epoch."""
        per_lane, per_rank = self.global_batch_size // self.num_lanes, self.global_batch_size // world_size
        first, last = rank * per_rank // per_lane, ((rank + 1) * per_rank - 1) // per_lane
        return {int(shard) for lane in self._epoch(0)[first : last + 1] for shard in np.unique(lane[:, 0])}

    def _at(self, lane: int, position: int) -> np.ndarray:
        # In num_lanes consecutive epochs a lane gets every length once, `total` samples in all.
        cycles, position = divmod(position, self.total)
        epoch = cycles * self.num_lanes
        while position >= (length := self._length(lane, epoch)):
            position -= length
            epoch += 1
        return self._epoch(epoch)[lane][position]

    def _length(self, lane: int, epoch: int) -> int:
        """Samples of a lane in an epoch, known without laying the epoch out."""
        shortest, longer = divmod(self.total, self.num_lanes)
        return shortest + ((lane - epoch) % self.num_lanes < longer)

    def _make_epoch(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        line = self._line(rng.permutation(len(self.counts)), rng)
        lanes = np.array_split(line, self.num_lanes)
        turn = epoch % self.num_lanes  # the first lanes are a sample longer when the split is uneven: take turns
        return lanes[-turn:] + lanes[:-turn] if turn else lanes

    def _line(self, shards: Sequence[int] | np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """All samples of `shards`, shard after shard; with `rng` shuffled within each and without the held-out ones."""
        starts = np.cumsum([0, *self.counts])
        pieces = []
        for shard in shards:
            usable = self.counts[shard]
            if rng is not None:
                usable = int(np.clip(self.total - starts[shard], 0, usable))
            indices = rng.permutation(usable) if rng is not None else np.arange(usable)
            pieces.append(np.stack([np.full(usable, shard), indices], axis=1))
        return np.concatenate(pieces).astype(np.int32)
