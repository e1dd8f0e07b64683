"""make_pairs: exactly its plan, whatever the number of workers; rejects with reasons; refuses another plan."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from degradations import build
from infra import storage
from infra.errors import JobError, UsageError
from infra.recipe import load_recipe
from pipelines.dataset import iter_shard, open_dataset
from pipelines.decode import decode_rgb
from pipelines.pairs import make_pairs
from pipelines.shard import committed_shards
from tests.pipelines.conftest import SMALL, shard_digests, tree

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def dataset(photos, tmp_path_factory, local_ray):
    out = tmp_path_factory.mktemp("pairs") / "out"
    make_pairs(load_recipe("realsr_x4", SMALL), str(photos), str(out), workers=2)
    return out


def test_every_planned_sample_is_there_once(dataset):
    opened = open_dataset(str(dataset))
    samples = [sample for shard in range(3) for sample in iter_shard(opened, shard)]
    assert [sample["key"] for sample in samples] == [f"{i // 4:06d}-{i % 4:06d}" for i in range(9)]
    drawn = {(sample["record"]["source"], sample["record"]["variant"]) for sample in samples}
    assert drawn == {(f"{name}.png", v) for name in ("astronaut", "chelsea", "coffee") for v in range(3)}
    assert samples[0]["hq"].shape == (64, 64, 3)
    assert samples[0]["lq"].shape == (16, 16, 3)


def test_hq_is_the_crop_the_record_says_and_lq_replays(dataset, photos):
    for sample in iter_shard(open_dataset(str(dataset)), 1):
        record = sample["record"]
        photo, crop = decode_rgb((photos / record["source"]).read_bytes()), record["crop"]
        hq = photo[crop["top"] : crop["top"] + 64, crop["left"] : crop["left"] + 64]
        np.testing.assert_array_equal(sample["hq"], hq[:, ::-1] if record["horizontal_flip"] else hq)
        replayed = build("realesrgan", scale=4).replay(sample["hq"], record["degradation"])
        np.testing.assert_array_equal(sample["lq"], replayed.lq)


def test_bytes_do_not_depend_on_workers_or_interruption(dataset, photos, recipe, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(dataset, out)
    for gone in ("000001.json", "000002.json", "000002.tar"):  # as a killed job leaves it: a tar without its record
        (out / "shards" / gone).unlink()
    (out / "shards" / ".tmp-left").write_bytes(b"half written")
    summary = make_pairs(recipe, str(photos), str(out), workers=1)
    assert "(2 made now" in summary
    assert shard_digests(out) == shard_digests(dataset)
    tars = {name: data for name, data in tree(out).items() if name.endswith(".tar")}
    assert tars == {name: data for name, data in tree(dataset).items() if name.endswith(".tar")}


@pytest.mark.slow
def test_the_command_on_s3_gives_the_same_bytes(dataset, photos, s3):
    for path in photos.iterdir():
        storage.upload(path, storage.join(s3, "photos", path.name))
    out = storage.join(s3, "pairs")
    command = [sys.executable, ROOT / "pipelines" / "make_pairs.py", "--recipe", "realsr_x4", *SMALL]
    subprocess.run([*command, "--source", storage.join(s3, "photos"), "--out", out, "--workers", "2"], check=True)
    assert shard_digests(out) == shard_digests(dataset)
    assert storage.exists(storage.join(out, "preview.png"))


def test_relative_places_mean_what_they_mean_to_the_command(dataset, photos, recipe, tmp_path, monkeypatch):
    """Ray's workers stand in another folder than who started this test moves to."""
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "list.txt").write_text("".join(f"photos/{path.name}\n" for path in sorted(photos.iterdir())))
    monkeypatch.chdir(tmp_path)
    assert make_pairs(recipe, "photos", "out").endswith("(3 made now, 0 rejected) -> out")
    assert shard_digests("out") == shard_digests(dataset)
    assert json.loads(Path("out/dataset.json").read_text())["source_uri"] == "photos"
    make_pairs(recipe, "list.txt", "listed")
    assert open_dataset("listed").num_samples == 9


def test_another_seed_gives_other_pairs(dataset, photos, recipe, tmp_path):
    other = load_recipe("realsr_x4", [*SMALL, "shards.seed=8"])
    make_pairs(other, str(photos), str(tmp_path / "out"))
    assert not set(shard_digests(tmp_path / "out")) & set(shard_digests(dataset))


def test_another_plan_is_refused_and_nothing_is_lost(dataset, photos, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(dataset, out)
    before = tree(out)
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(photos / "coffee.png", one)
    with pytest.raises(UsageError, match=r"shards\.hq_size: 64 -> 32"):
        make_pairs(load_recipe("realsr_x4", [*SMALL, "shards.hq_size=32"]), str(photos), str(out))
    with pytest.raises(UsageError, match=r"source\.num_images: 3 -> 1"):
        make_pairs(load_recipe("realsr_x4", SMALL), str(one), str(out))
    assert tree(out) == before


def test_what_is_no_image_or_too_small_is_rejected_by_reason(photos, recipe, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(photos, source)
    (source / "text.jpg").write_text("not an image")
    Image.new("RGB", (63, 500)).save(source / "thin.png")
    (source / "notes.txt").write_text("files that do not look like images are not listed")
    make_pairs(recipe, str(source), str(tmp_path / "out"))
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert sorted((reject["uri"], reject["reason"]) for reject in rejects) == (
        [("text.jpg", "unreadable")] * 3 + [("thin.png", "too_small")] * 3
    )
    assert open_dataset(str(tmp_path / "out")).num_samples == 9


def test_too_many_rejects_fail_but_keep_the_rest(photos, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(photos, source)
    (source / "text.jpg").write_text("not an image")
    strict = load_recipe("realsr_x4", [*SMALL, "shards.max_reject_rate=0.1"])
    expected = r"3 of 12 samples were rejected \(unreadable 3\), more than shards\.max_reject_rate=0\.1 allows"
    with pytest.raises(JobError, match=expected):
        make_pairs(strict, str(source), str(tmp_path / "out"))
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [reject["uri"] for reject in rejects] == ["text.jpg"] * 3
    lenient = load_recipe("realsr_x4", [*SMALL, "shards.max_reject_rate=0.25"])
    make_pairs(lenient, str(source), str(tmp_path / "out"))
    assert open_dataset(str(tmp_path / "out")).num_samples == 9


def test_the_remedy_for_files_out_of_reach_works(photos, tmp_path):
    """Rejects are committed with their shards, and nobody reads the source for those again."""
    folder = shutil.copytree(photos, tmp_path / "photos")
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"photos/{path.name}\n" for path in sorted(photos.iterdir())))
    strict = load_recipe("realsr_x4", [*SMALL, "shards.max_reject_rate=0.3"])
    make_pairs(strict, str(listing), str(tmp_path / "expected"))
    (folder / "coffee.png").unlink()
    with pytest.raises(JobError) as raised:
        make_pairs(strict, str(listing), str(tmp_path / "out"))
    shutil.copy(photos / "coffee.png", folder)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    named = sorted({tmp_path / "out" / "shards" / f"{reject['shard']:06d}.json" for reject in rejects})
    others = f" and those of the other {len(named) - 1} shards named there" if len(named) > 1 else ""
    assert f"only out of reach, delete {named[0]}{others} and run the same command again" in str(raised.value)
    for record in named:
        record.unlink()
    make_pairs(strict, str(listing), str(tmp_path / "out"))
    assert shard_digests(tmp_path / "out") == shard_digests(tmp_path / "expected")


def test_a_source_that_cannot_be_used_stops_the_job_early(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"{number:02d}.jpg").write_text("not an image")
    strict = load_recipe("realsr_x4", [*SMALL, "shards.max_reject_rate=0.1"])
    with pytest.raises(JobError, match=r"16 of 120 samples were rejected .*; stopped after 16, what was made is kept"):
        make_pairs(strict, str(source), str(tmp_path / "out"), workers=1)
    assert len(committed_shards(str(tmp_path / "out"))) == 4  # 13 rejects are too many; they stand in the fourth
    with pytest.raises(JobError, match="16 of 120"):  # again: nothing is made, and the reason is said again
        make_pairs(strict, str(source), str(tmp_path / "out"), workers=1)


def test_nothing_but_rejects_is_a_failure_at_any_rate(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "text.jpg").write_text("not an image")
    with pytest.raises(JobError, match=r"3 of 3 .* \(unreadable 3\), so nothing can be used; see .* then mend the"):
        make_pairs(load_recipe("realsr_x4", [*SMALL, "shards.max_reject_rate=1"]), str(source), str(tmp_path / "out"))


def test_a_list_of_images(photos, recipe, tmp_path, dataset):
    listing = tmp_path / "list.txt"
    names = sorted(path.name for path in photos.iterdir())
    listing.write_text("\n".join(["# my photos", *(str(photos / name) for name in names), ""]))
    make_pairs(recipe, str(listing), str(tmp_path / "out"))
    assert open_dataset(str(tmp_path / "out")).num_samples == 9


def test_bad_degradation_names_the_key(photos, tmp_path):
    with pytest.raises(UsageError, match=r"degradation.*jpeg_rang"):
        make_pairs(load_recipe("realsr_x4", ["degradation.jpeg_rang=[1,2]"]), str(photos), str(tmp_path / "out"))
