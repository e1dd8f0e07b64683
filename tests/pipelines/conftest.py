"""A small recipe and helpers for dataset tests."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from infra import storage
from infra.recipe import Recipe, load_recipe
from pipelines.dataset import decode_sample
from pipelines.plan import plan_pairs
from pipelines.samples import pair_samples
from pipelines.shard import Reject, committed_shards
from pipelines.source import list_source

NAMES = ["astronaut.png", "chelsea.png", "coffee.png"]
SMALL = [
    "shards.hq_size=64",
    "shards.samples_per_shard=4",
    "shards.variants=3",
    "shards.max_reject_rate=0.5",
    "shards.seed=7",
]


@pytest.fixture
def recipe():
    return load_recipe("realsr_x4", SMALL)


def shard_digests(url) -> list[str]:
    return [record.sha256 for _, record in sorted(committed_shards(str(url)).items())]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def planned_samples(recipe: Recipe, source) -> tuple[dict[str, dict], list[Reject]]:
    """Every sample of a plan by key, and what was left out; made here, without Ray and without storing anything."""
    planned = plan_pairs(recipe, str(source), "nowhere")
    samples, rejects = {}, []
    for shard in range(planned.plan.num_shards):
        for members in pair_samples(planned.plan, shard, planned.images_of(shard), rejects):
            sample = decode_sample("nowhere", members.pop("__key__"), members)
            samples[sample["key"]] = sample
    return samples, rejects


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def listed(uri) -> list[str]:
    source = list_source(str(uri))
    return [image.name for image in source.images(np.arange(source.num_images))]


def read(uri) -> dict[str, bytes]:
    """name -> bytes of every image that has no fault."""
    source = list_source(str(uri))
    images = source.images(np.arange(source.num_images))
    return {
        image.name: storage.read_range(image.url, *image.span) if image.span else storage.read_bytes(image.url)
        for image in images
        if image.fault is None
    }


@pytest.fixture
def data(photos) -> dict[str, bytes]:
    return {name: (photos / name).read_bytes() for name in NAMES}


@pytest.fixture
def tars(tmp_path, data):
    folder = tmp_path / "tars"
    write_tar(folder / "00.tar", [("a.png", data["astronaut.png"]), ("a.json", b"{}"), ("b.png", data["chelsea.png"])])
    write_tar(folder / "01.tar", [("deep/a.png", data["coffee.png"]), (f"{'long' * 60}.png", data["chelsea.png"])])
    return folder
