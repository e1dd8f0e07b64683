"""The global batch of a step: the same for any number of processes, every sample once per epoch."""

from collections import Counter

import numpy as np
import pytest
import torch

from infra.errors import UsageError
from training import agreement
from training.engine import Processes
from training.order import SampleOrder


def as_tuples(places: np.ndarray) -> list[tuple[int, int]]:
    return [(int(shard), int(index)) for shard, index in places]


@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
def test_the_global_batch_does_not_depend_on_the_process_count(world_size):
    order = SampleOrder([7, 9, 0, 13, 11], global_batch_size=16, seed=3)
    for step in (0, 1, 5, 40):
        parts = [order.batch(step, rank, world_size) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(parts), order.batch(step))


def test_every_sample_once_per_epoch():
    counts = [8, 8, 4, 12, 16]  # 48 samples are 6 batches of 8
    order = SampleOrder(counts, global_batch_size=8, seed=0)
    everything = {(shard, index) for shard, count in enumerate(counts) for index in range(count)}
    epochs = [[place for step in range(6 * e, 6 * e + 6) for place in as_tuples(order.batch(step))] for e in range(3)]
    for epoch in epochs:
        assert len(epoch) == 48
        assert set(epoch) == everything
    assert epochs[0] != epochs[1]


def test_uneven_epochs_stay_balanced_in_the_long_run():
    order = SampleOrder([5, 6], global_batch_size=4, seed=1)
    seen = Counter(place for step in range(11 * 10) for place in as_tuples(order.batch(step)))
    assert set(seen.values()) == {40}


def test_the_order_follows_from_the_seed():
    first, again, other = (SampleOrder([20, 20], 8, seed) for seed in (1, 1, 2))
    assert as_tuples(first.batch(3)) == as_tuples(again.batch(3))
    assert as_tuples(first.batch(3)) != as_tuples(other.batch(3))


def test_processes_read_different_shards():
    order = SampleOrder([16] * 8, global_batch_size=8, seed=0)
    shards = [{shard for step in range(16) for shard, _ in as_tuples(order.batch(step, rank, 4))} for rank in range(4)]
    assert sum(len(part) for part in shards) == len(set.union(*shards)) == 8


@pytest.mark.parametrize(("batch", "world_size"), [(8, 2), (8, 4), (8, 8), (96, 8), (96, 16), (96, 32), (64, 16)])
def test_only_where_a_lane_ends_is_a_shard_read_by_two(batch, world_size):
    """An epoch of 40 uneven shards: lanes of equal length cannot all end where a shard ends."""
    counts = np.random.default_rng(0).integers(50, 70, 40).tolist()
    order = SampleOrder(counts, global_batch_size=batch, seed=0)
    assert order.separates(world_size)
    steps = range(order.total // batch)
    shards = [
        {int(s) for step in steps for s in order.batch(step, rank, world_size)[:, 0]} for rank in range(world_size)
    ]
    readers = Counter(shard for part in shards for shard in part)
    assert len(readers) == 40
    assert sum(count - 1 for count in readers.values()) <= world_size - 1
    places = [
        {place for step in steps for place in as_tuples(order.batch(step, r, world_size))} for r in range(world_size)
    ]
    assert sum(map(len, places)) == len(set.union(*places)), "no sample twice"
    assert all(part <= order.shards(rank, world_size) for rank, part in enumerate(shards))


def test_processes_that_do_not_divide_the_lanes_are_told_apart():
    order = SampleOrder([16] * 24, global_batch_size=24, seed=0)  # 8 lanes for 3 or 12 processes
    assert not order.separates(12)
    for world_size in (3, 12):
        for rank in range(world_size):
            read = {shard for step in range(16) for shard, _ in as_tuples(order.batch(step, rank, world_size))}
            assert read <= order.shards(rank, world_size)
    assert sum(len(order.shards(rank, 12)) for rank in range(12)) > 24 + 11


def test_processes_that_would_read_the_same_shards_do_not_start(monkeypatch):
    order, processes = SampleOrder([16] * 8, global_batch_size=8, seed=0), Processes(0, 4, 0, torch.device("cpu"))

    def gathering(ranks):
        def gather(_, value):
            if isinstance(value, set):
                return [order.shards(rank, 4) for rank in ranks]
            return [order.batch(0, rank, 4) for rank in range(4)]

        return gather

    monkeypatch.setattr(agreement, "gather", gathering([0, 1, 2, 3]))
    agreement._check_shares(processes, order)
    monkeypatch.setattr(agreement, "gather", gathering([0, 1, 0, 1]))
    with pytest.raises(UsageError, match="would read 4 shards more than once in the first epoch"):
        agreement._check_shares(processes, order)


def test_held_out_samples_are_never_trained_on():
    order = SampleOrder([6, 6], global_batch_size=4, seed=0, held_out=3)
    trained = {place for step in range(50) for place in as_tuples(order.batch(step))}
    assert as_tuples(order.held_out(9)) == [(1, 3), (1, 4), (1, 5)]
    assert trained == {(0, i) for i in range(6)} | {(1, i) for i in range(3)}


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="3 samples to train on are fewer than one global batch of 4"):
        SampleOrder([5], global_batch_size=4, seed=0, held_out=2)


def test_more_processes_than_shards_are_refused():
    order = SampleOrder([8, 0, 8], global_batch_size=8, seed=0)
    order.check_processes(2)
    with pytest.raises(ValueError, match="2 shards are too few for 4 processes"):
        order.check_processes(4)


def test_a_late_step_is_found_without_the_epochs_before_it():
    order, made = SampleOrder([500] * 7 + [3], global_batch_size=8, seed=0), []
    make = order._make_epoch
    order._epoch = lambda epoch: made.append(epoch) or make(epoch)
    steps_per_epoch = order.total / 8
    order.batch(int(13.5 * steps_per_epoch))
    assert set(made) == {13}
    for epoch in range(9):
        assert [len(lane) for lane in make(epoch)] == [order._length(lane, epoch) for lane in range(8)]
