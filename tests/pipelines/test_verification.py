"""verify finds a flipped bit, a missing shard, a truncated tar and a doubled key."""

import shutil

import pytest

from infra.errors import JobError, UsageError
from infra.recipe import load_recipe
from pipelines.dataset import open_dataset
from pipelines.pairs import make_pairs
from pipelines.shard import make_shard, read_shard
from pipelines.verification import verify
from tests.pipelines.conftest import SMALL


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory, local_ray):
    out = tmp_path_factory.mktemp("verify") / "out"
    make_pairs(load_recipe("realsr_x4", SMALL), str(photos), str(out))
    return out


@pytest.fixture
def dataset(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out")


def test_a_good_dataset_has_no_faults(dataset):
    findings = verify(str(dataset))
    assert (findings.num_shards, findings.num_samples, findings.faults) == (3, 9, [])


def test_flipped_bit(dataset):
    tar = dataset / "shards" / "000001.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    assert len(verify(str(dataset)).faults) > 0
    assert "sha256 differs" in verify(str(dataset)).faults[0]


def test_truncated_and_missing_tar(dataset):
    tar = dataset / "shards" / "000001.tar"
    tar.write_bytes(tar.read_bytes()[:-2000])
    (dataset / "shards" / "000002.tar").unlink()
    faults = verify(str(dataset)).faults
    assert "its record says" in faults[0]
    assert "is missing although it was committed" in faults[1]


def test_unfinished_shard(dataset):
    (dataset / "shards" / "000000.json").unlink()
    assert verify(str(dataset)).faults[0] == "shard 0: not finished"
    with pytest.raises(UsageError, match="1 of 3 shards are not finished"):
        open_dataset(str(dataset))


def test_doubled_key(dataset):
    url = str(dataset)
    opened = open_dataset(url)
    samples = list(read_shard(url, opened.shards[0]))
    (dataset / "shards" / "000001.json").unlink()
    make_shard(url, 1, samples)
    faults = verify(url).faults
    assert "sample 000000-000000: stands 2 times" in faults


def test_no_dataset_and_damaged_plan(tmp_path):
    with pytest.raises(UsageError, match=r"no dataset\.json there"):
        verify(str(tmp_path))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(JobError, match="not valid JSON"):
        verify(str(tmp_path))
