"""A small recipe and helpers for dataset tests."""

from pathlib import Path

import pytest

from infra.recipe import load_recipe
from pipelines.shard import committed_shards

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
