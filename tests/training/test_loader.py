"""Batches come in the fixed order, whoever reads them and wherever reading starts."""

import numpy as np
import pytest
import torch

from infra.errors import JobError
from pipelines.dataset import iter_shard, open_dataset
from pipelines.shard import tar_url
from tests.training.conftest import write_dataset
from training.engine import Processes
from training.loader import BatchLoader, held_out_samples, held_out_size
from training.order import SampleOrder

FIELDS = ("lq", "hq_latent")


def read(dataset, order, start, stop, rank=0, world_size=1):
    processes = Processes(rank, world_size, rank, torch.device("cpu"))
    with BatchLoader(dataset, order, FIELDS, processes, start, stop, read_ahead=2) as loader:
        return list(loader)


def order_of(dataset, **options) -> SampleOrder:
    return SampleOrder([record.num_samples for record in dataset.shards], 4, seed=2, **options)


def test_a_batch_holds_the_samples_the_order_names(latents):
    dataset = open_dataset(str(latents))
    order = order_of(dataset)
    stored = [list(iter_shard(dataset, shard)) for shard in range(len(dataset.shards))]
    for batch in read(dataset, order, 0, 9):
        places = order.batch(batch.step)
        assert batch.keys == [stored[shard][index]["key"] for shard, index in places]
        assert batch.slots == [0, 1, 2, 3]
        for row, (shard, index) in enumerate(places):
            np.testing.assert_array_equal(batch.arrays["hq_latent"][row], stored[shard][index]["hq_latent"])
            np.testing.assert_array_equal(batch.arrays["lq"][row], stored[shard][index]["lq"])


def test_ranks_share_the_batch_and_a_resume_seeks(latents):
    dataset = open_dataset(str(latents))
    order = order_of(dataset)
    whole = [batch.keys for batch in read(dataset, order, 0, 8)]
    halves = [read(dataset, order, 0, 8, rank, 2) for rank in range(2)]
    assert [a.keys + b.keys for a, b in zip(*halves, strict=True)] == whole
    assert [a.slots + b.slots for a, b in zip(*halves, strict=True)] == [[0, 1, 2, 3]] * 8
    assert [batch.keys for batch in read(dataset, order, 5, 8)] == whole[5:]


def test_micro_batches_are_the_batch_in_pieces(latents):
    dataset = open_dataset(str(latents))
    (batch,) = read(dataset, order_of(dataset), 0, 1)
    parts = list(batch.micro(2))
    assert [key for part in parts for key in part.keys] == batch.keys
    assert [part.slots for part in parts] == [[0, 1], [2, 3]]


def test_leaving_early_ends_the_background_thread(latents):
    dataset = open_dataset(str(latents))
    loader = BatchLoader(dataset, order_of(dataset), FIELDS, Processes(0, 1, 0, torch.device("cpu")), 0, 10_000)
    with loader:
        next(iter(loader))
    assert not loader._thread.is_alive()


def test_a_damaged_shard_reaches_the_trainer(tmp_path):
    dataset = open_dataset(str(write_dataset(tmp_path, "latents", [6])))
    tar = tmp_path / "shards" / "000000.tar"
    assert str(tar) == tar_url(str(tmp_path), 0)
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(JobError, match="its record says"):
        read(dataset, order_of(dataset), 0, 1)


def test_held_out_samples_come_in_whole_photos(latents):
    dataset = open_dataset(str(latents))
    assert held_out_size(dataset, 3) == 4  # two variants of each photo
    order = order_of(dataset, held_out=4)
    samples = held_out_samples(dataset, order, 3, ("hq",))
    assert [sample["key"] for sample in samples] == ["000003-000002", "000003-000004", "000003-000005"]
    assert len(held_out_samples(dataset, order, 9, ("hq",))) == 4
