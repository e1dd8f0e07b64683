"""verify finds a flipped bit, a missing shard, a truncated tar and a doubled key."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import JobError, UsageError
from infra.recipe import load_recipe
from pipelines.dataset import open_dataset
from pipelines.pairs import make_pairs
from pipelines.shard import committed_shards, make_shard, read_shard, records_of_all
from pipelines.verification import verify
from tests.pipelines.conftest import SMALL

ROOT = Path(__file__).parents[2]


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
    assert "shard 1: sample 000000-000000 is of another shard: it stands twice, or the shards were mixed up" in faults


def test_a_key_doubled_within_a_shard(dataset):
    url = str(dataset)
    first, *others = list(read_shard(url, open_dataset(url).shards[0]))
    (dataset / "shards" / "000000.json").unlink()
    make_shard(url, 0, [first, *others, first])
    faults = verify(url).faults
    assert "shard 0: sample 000000-000000 stands 2 times" in faults
    assert "plan: 9 samples, but 10 are stored or rejected" in faults


def test_damaged_records_and_plan(dataset):
    shards = dataset / "shards"
    (shards / "000000.json").write_text("{}")
    (shards / "000001.json").write_text((shards / "000001.json").read_text()[:-9])
    shutil.copy(shards / "000002.json", shards / "000007.json")
    plan = dataset / "dataset.json"
    plan.write_text(plan.read_text().replace('"seed": 7', '"seed": 8'))
    faults = verify(str(dataset)).faults
    assert "plan_hash is not that of its identity" in faults[0]
    assert "000000.json: is no commit record" in faults[1]
    assert "000001.json: is not valid JSON" in faults[2]
    assert "000007.json: is no commit record (it is that of shard 2)" in faults[3]
    assert faults[4:] == ["shard 0: not finished", "shard 1: not finished"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_samples": None}, "num_samples: Input should be a valid integer"),
        ({"bytes": "5"}, "bytes: Input should be a valid integer"),
        ({"shard": True}, "shard: Input should be a valid integer"),
        ({"shard": -1}, "shard: Input should be greater than or equal to 0"),
        ({"rejects": [1]}, "rejects.0: Input should be"),
        ({"sha256": None}, "sha256: Input should be a valid string"),
        ({"tar": "../../etc.tar"}, "tar: String should match pattern"),
        ({"more": 1}, "more: "),
    ],
)
def test_records_of_other_types_are_faults(dataset, change, expected):
    path = dataset / "shards" / "000001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    fault, *others = verify(str(dataset)).faults
    assert fault.startswith(f"{path}: is no commit record ({expected}")
    assert others == ["shard 1: not finished"]


@pytest.mark.parametrize("text", ["[]", "null", '"x"'])
def test_what_is_no_record_at_all_is_a_fault(dataset, text):
    (dataset / "shards" / "000001.json").write_text(text)
    assert "000001.json: is no commit record (" in verify(str(dataset)).faults[0]


def test_a_record_under_another_number_ends_the_job(dataset, photos, recipe):
    """Taken for that of its number, it would leave a shard out and have a tar removed."""
    shutil.copy(dataset / "shards" / "000001.json", dataset / "shards" / "000002.json")
    with pytest.raises(JobError, match=r"000002\.json: is no commit record \(it is that of shard 1\); delete it"):
        make_pairs(recipe, str(photos), str(dataset), workers=1)
    assert (dataset / "shards" / "000002.tar").exists()


def test_a_job_ends_with_a_record_of_every_planned_shard(made):
    done = committed_shards(str(made))
    assert records_of_all(str(made), done, 3) == [done[0], done[1], done[2]]
    with pytest.raises(JobError, match=r"000002\.json: its shard is not in the plan of 2; delete it"):
        records_of_all(str(made), done, 2)
    with pytest.raises(JobError, match="shard 3 was not made; run the same command again"):
        records_of_all(str(made), done, 4)


def test_a_member_that_no_dataset_has_is_a_fault(dataset):
    url = str(dataset)
    first, *others = list(read_shard(url, open_dataset(url).shards[0]))
    (dataset / "shards" / "000000.json").unlink()
    make_shard(url, 0, [first | {"foo": b"x"}, *others])
    assert "sample 000000-000000: holds 'foo', which no dataset has" in verify(url).faults[0]


def test_strange_tars_and_a_missing_card_are_named(dataset):
    shutil.copy(dataset / "shards" / "000001.tar", dataset / "shards" / "000009.tar")
    (dataset / "preview.png").unlink()
    assert verify(str(dataset)).faults == [
        "shards/000009.tar: no commit record names this tar; move it away",
        "card: preview.png is missing; run the command that made the dataset again",
    ]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("[]", "is no plan but list []"),
        ("null", "is no plan but NoneType null"),
        ('{"schema_version": 1}', "identity is missing, it must be dict"),
        (
            '{"schema_version": 1, "identity": {}, "plan_hash": "x", "num_shards": "3"}',
            'num_shards is str "3", it must',
        ),
    ],
)
def test_a_damaged_plan_is_one_line(tmp_path, plan, expected):
    (tmp_path / "dataset.json").write_text(plan)
    for use in (verify, open_dataset):
        with pytest.raises(JobError, match=re.escape(expected)):
            use(str(tmp_path))


def test_the_command_prints_each_fault_and_fails(dataset):
    (dataset / "shards" / "000000.json").unlink()
    (dataset / "shards" / "000002.tar").unlink()
    command = [sys.executable, str(ROOT / "pipelines" / "verify.py"), str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["shard 0", "shard 2"]
    assert done.stderr.splitlines()[-1].startswith(f"error: {dataset}: 2 faults found")


def test_many_shards_are_checked_by_workers(photos, tmp_path, local_ray, monkeypatch):
    url = str(tmp_path / "out")
    make_pairs(load_recipe("realsr_x4", [*SMALL, "shards.samples_per_shard=1", "shards.variants=6"]), str(photos), url)
    tar = tmp_path / "out" / "shards" / "000011.tar"
    tar.write_bytes(tar.read_bytes()[:-1024])
    monkeypatch.chdir(tmp_path)  # where no worker stands
    findings = verify("out", workers=2)
    assert (findings.num_shards, findings.num_samples, len(findings.faults)) == (18, 17, 1)
    assert findings.faults[0].startswith("shard 11: ")


def test_no_dataset_and_damaged_plan(tmp_path):
    with pytest.raises(UsageError, match=r"no dataset\.json there"):
        verify(str(tmp_path))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(JobError, match="not valid JSON"):
        verify(str(tmp_path))
