"""--dry-run: the resolved plan and an estimate from a few real samples; nothing is stored."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infra.errors import JobError, UsageError
from infra.recipe import load_recipe
from pipelines.dataset import freeze_plan
from pipelines.estimate import Prices, Probe, estimate
from pipelines.pairs import make_pairs
from pipelines.plan import plan_pairs
from pipelines.probe import probe_pairs
from pipelines.samples import pair_samples
from pipelines.shard import make_shard
from tests.pipelines.conftest import SMALL, tree

ROOT = Path(__file__).parents[2]


def test_the_plan_is_shown_and_nothing_is_written(photos, recipe, tmp_path):
    said = make_pairs(recipe, str(photos), str(tmp_path / "out"), workers=3, dry_run=True)
    resolved, summary, probe, expected = said.rsplit("\n", 3)
    assert yaml.safe_load(resolved)["degradation"]["first"]["jpeg_quality_range"] == [30, 95]
    assert "3 images x 3 variants = 9 pairs of 64x64 and 16x16 in 3 shards, 0 of them made already" in summary
    assert probe.startswith("probe: 9 pairs made and thrown away: ")
    assert " with 3 workers " in expected
    assert not (tmp_path / "out").exists()


def test_the_probe_weighs_what_shards_weigh(photos, recipe, tmp_path):
    planned = plan_pairs(recipe, str(photos), str(tmp_path / "out"))
    probe = probe_pairs(planned)
    records = [
        make_shard(planned.plan.url, shard, pair_samples(planned.plan, shard, planned.images_of(shard), []))
        for shard in range(planned.plan.num_shards)
    ]
    ends = 3 * 10240  # a tar is filled up to a record of 20 blocks
    assert 0 <= sum(record.bytes for record in records) - 9 * probe.stored_bytes <= ends
    assert probe.samples == 9
    assert probe.rejected == 0


def test_what_is_made_already_is_not_counted_again(photos, recipe, tmp_path):
    planned = plan_pairs(recipe, str(photos), str(tmp_path / "out"))
    freeze_plan(planned.plan.url, planned.document)
    make_shard(planned.plan.url, 1, pair_samples(planned.plan, 1, planned.images_of(1), []))
    before = tree(tmp_path / "out")
    said = make_pairs(recipe, str(photos), str(tmp_path / "out"), workers=1, dry_run=True)
    assert "in 3 shards, 1 of them made already" in said
    assert tree(tmp_path / "out") == before
    other = load_recipe("realsr_x4", [*SMALL, "shards.seed=8"])
    with pytest.raises(UsageError, match=r"holds another dataset \(shards\.seed: 7 -> 8\)"):
        make_pairs(other, str(photos), str(tmp_path / "out"), workers=1, dry_run=True)


def test_another_codec_is_another_dataset(photos, recipe, tmp_path, monkeypatch):
    planned = plan_pairs(recipe, str(photos), str(tmp_path / "out"))
    freeze_plan(planned.plan.url, planned.document)
    monkeypatch.setattr("pipelines.plan.CODEC", "png: no filter")
    with pytest.raises(
        UsageError, match=r'holds another dataset \(codec: "png: up filter, zlib run lengths" -> "png: no filter"'
    ):
        make_pairs(recipe, str(photos), str(tmp_path / "out"), workers=1)


def test_rejects_are_foreseen(photos, recipe, tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    (source / "damaged.png").write_bytes((photos / "coffee.png").read_bytes()[:900])
    with pytest.raises(JobError, match=r"none of 1 images can be used, the last is damaged\.png: unreadable"):
        make_pairs(recipe, str(source), str(tmp_path / "out"), workers=1, dry_run=True)
    (source / "coffee.png").write_bytes((photos / "coffee.png").read_bytes())
    said = make_pairs(recipe, str(source), "nowhere", workers=1, dry_run=True)
    assert "50% of the inputs rejected" in said
    assert "would fail" not in said
    strict = load_recipe("realsr_x4", [*SMALL, "shards.max_reject_rate=0.4"])
    last = make_pairs(strict, str(source), "nowhere", workers=1, dry_run=True).splitlines()[-1]
    assert last.startswith("warning: this job would fail: 50% of the probed images are rejected, and shards.max_reject")


def test_time_bytes_and_cost_of_pairs():
    probe = Probe(samples=48, cpu_seconds=0.004, stored_bytes=125_000, rejected=0.5)
    said = estimate(1_800_000, "pairs", probe, workers=10, prices=Prices(cpu_hour=0.05, gpu_hour=2)).splitlines()
    assert said[0] == (
        "probe: 48 pairs made and thrown away: 4 ms of a core and 125 KB each, 50% of the inputs rejected"
    )
    assert said[1].startswith("expected: 6 min with 10 workers like this machine's (1 CPU-hours), 112 GB;")
    assert said[2] == "cost: 0.05 (0.05 at 0.05 per CPU-hour + 0 at 2 per GPU-hour)"


def test_the_slower_side_decides_where_gpus_work_beside_cores():
    probe = Probe(samples=8, cpu_seconds=0.002, gpu_seconds=0.01, stored_bytes=1000)
    said = estimate(720_000, "latents", probe, workers=4, gpus=1, prices=Prices(cpu_hour=0.5, gpu_hour=3)).splitlines()
    assert "2 ms of a core and 10 ms of a GPU" in said[0]
    assert "2 h 00 min with 4 workers and 1 GPUs like this machine's (8 CPU-hours, 2 GPU-hours), 720 MB" in said[1]
    assert said[2] == "cost: 10.00 (4.00 at 0.5 per CPU-hour + 6.00 at 3 per GPU-hour)"
    assert "1 h" not in estimate(720_000, "latents", probe, workers=4, gpus=2).splitlines()[1].partition("with")[0]
    alone = estimate(1000, "latents", probe, workers=4).splitlines()  # the encoder runs on the cores
    assert alone[1].startswith("expected: 3 s with 4 workers like")
    assert len(alone) == 2


def test_the_command_shows_the_cost(photos, tmp_path):
    command = [sys.executable, ROOT / "pipelines" / "make_pairs.py", "--recipe", "realsr_x4", *SMALL]
    where = ["--source", photos, "--out", tmp_path / "out", "--workers", "2", "--dry-run"]
    run = subprocess.run([*command, *where, "--price-per-cpu-hour", "3"], capture_output=True, text=True, check=True)
    assert " at 3 per CPU-hour)" in run.stdout.splitlines()[-1]
    wrong = subprocess.run(
        [*command, *where, "--price-per-cpu-hour", "-1"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
