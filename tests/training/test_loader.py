"""Batches come in the fixed order, whoever reads them and wherever reading starts."""

import os

import numpy as np
import pytest
import torch

from infra import storage
from infra.errors import JobError
from pipelines.dataset import iter_shard, open_dataset
from pipelines.shard import tar_url
from pipelines.shard_reader import ShardReader
from tests.training.conftest import write_dataset
from training.engine import Processes
from training.loader import BatchLoader, held_out_size, read_samples
from training.order import SampleOrder

FIELDS = ("lq", "hq_latent")


def read(dataset, order, start, stop, rank=0, world_size=1, **options):
    processes = Processes(rank, world_size, rank, torch.device("cpu"))
    with BatchLoader(dataset, order, FIELDS, processes, start, stop, **options) as loader:
        return list(loader)


def order_of(dataset, batch_size=4, **options) -> SampleOrder:
    return SampleOrder([record.num_samples for record in dataset.shards], batch_size, seed=2, **options)


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


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_global_batch_is_the_same_for_any_ranks_and_workers(latents, world_size, workers):
    dataset = open_dataset(str(latents))
    order = order_of(dataset, batch_size=8)
    parts = [read(dataset, order, 3, 6, rank, world_size, workers=workers) for rank in range(world_size)]
    plain = read(dataset, order, 3, 6, read_ahead=1)
    for step, batch in enumerate(plain):
        shared = [part[step] for part in parts]
        assert [key for part in shared for key in part.keys] == batch.keys
        assert [slot for part in shared for slot in part.slots] == batch.slots == list(range(8))
        for field in FIELDS:
            np.testing.assert_array_equal(np.concatenate([p.arrays[field] for p in shared]), batch.arrays[field])


def test_a_resume_does_not_read_what_was_skipped(tmp_path):
    """Every byte that the remaining steps do not need is spoilt: the bytes of passed samples and of unused fields."""
    url = write_dataset(tmp_path, "latents", [6, 6, 6, 6])
    dataset = open_dataset(str(url))
    order = order_of(dataset)
    needed = {tuple(place) for step in (4, 5) for place in order.batch(step).tolist()}
    expected = read(dataset, order, 4, 6)
    for record in dataset.shards:
        path = tmp_path / "shards" / f"{record.shard:06d}.tar"
        keep = [
            span
            for index, (_, spans) in enumerate(ShardReader(str(url), record, path)._samples)
            for name, span in spans.items()
            if (record.shard, index) in needed and name in ("lq.png", "hq_latent.npy")
        ]
        if not keep:
            path.unlink()
            continue
        spoilt = bytearray(path.read_bytes())
        for _, spans in ShardReader(str(url), record, path)._samples:
            for span in spans.values():
                if span not in keep:
                    spoilt[span.offset : span.offset + span.size] = b"x" * span.size
        path.write_bytes(bytes(spoilt))
    for ours, theirs in zip(read(dataset, order, 4, 6), expected, strict=True):
        assert ours.keys == theirs.keys
        np.testing.assert_array_equal(ours.arrays["hq_latent"], theirs.arrays["hq_latent"])


def test_shards_on_s3_are_copied_once_and_room_is_made(latents, tmp_path, s3, monkeypatch):
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path / "cache"))
    for path in latents.rglob("*"):
        if path.is_file():
            storage.upload(path, storage.join(f"{s3}/data", *path.relative_to(latents).parts))
    dataset = open_dataset(f"{s3}/data")
    order, local = order_of(dataset), open_dataset(str(latents))
    plenty = sum(record.bytes for record in dataset.shards)
    whole = [batch.keys for batch in read(local, order, 0, 6)]
    assert [batch.keys for batch in read(dataset, order, 0, 6, cache_bytes=plenty)] == whole
    copies = set((tmp_path / "cache" / "shards").glob("*.tar"))
    assert {path.stem for path in copies} == {record.sha256 for record in dataset.shards}

    for shard in range(len(dataset.shards)):
        storage.delete(tar_url(f"{s3}/data", shard))  # from now on the copies are all there is
    assert [batch.keys for batch in read(dataset, order, 0, 6, cache_bytes=plenty)] == whole

    for path in copies:
        path.unlink()
    for path in latents.rglob("*.tar"):
        storage.upload(path, storage.join(f"{s3}/data", *path.relative_to(latents).parts))
    room = max(record.bytes for record in dataset.shards)
    assert [batch.keys for batch in read(dataset, order, 0, 6, cache_bytes=room)] == whole
    assert sum(path.stat().st_size for path in (tmp_path / "cache" / "shards").iterdir()) <= room


def test_what_a_killed_download_left_in_the_cache_is_removed(latents, tmp_path, s3, monkeypatch):
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path / "cache"))
    for path in latents.rglob("*"):
        if path.is_file():
            storage.upload(path, storage.join(f"{s3}/data", *path.relative_to(latents).parts))
    folder = tmp_path / "cache" / "shards"
    folder.mkdir(parents=True)
    abandoned, under_way = folder / ".tmp-old", folder / ".tmp-new"
    for path in (abandoned, under_way):
        path.write_bytes(b"half")
    os.utime(abandoned, (0, 0))
    read(open_dataset(f"{s3}/data"), order_of(open_dataset(str(latents))), 0, 6)
    assert not abandoned.exists()
    assert under_way.exists()


def test_a_shard_damaged_on_the_way_is_not_used(latents, tmp_path, s3, monkeypatch):
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path / "cache"))
    for path in latents.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".tar":
                data = data[:600] + bytes([data[600] ^ 1]) + data[601:]
            storage.write_bytes(storage.join(f"{s3}/data", *path.relative_to(latents).parts), data)
    dataset = open_dataset(f"{s3}/data")
    with pytest.raises(JobError, match="sha256 differs from its record; delete"):
        read(dataset, order_of(dataset), 0, 1)
    assert not list((tmp_path / "cache" / "shards").glob("*.tar"))


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


def test_a_missing_shard_is_one_clear_line(tmp_path):
    dataset = open_dataset(str(write_dataset(tmp_path, "latents", [6])))
    (tmp_path / "shards" / "000000.tar").unlink()
    with pytest.raises(JobError, match="is missing although it was committed; delete"):
        read(dataset, order_of(dataset), 0, 1)


def test_held_out_samples_come_in_whole_photos(latents):
    dataset = open_dataset(str(latents))
    assert held_out_size(dataset, 3) == 4  # two variants of each photo
    order = order_of(dataset, held_out=4)
    samples = read_samples(dataset, order.held_out(3), ("hq",))
    assert [sample["key"] for sample in samples] == ["000003-000002", "000003-000004", "000003-000005"]
    assert len(order.held_out(9)) == 4
