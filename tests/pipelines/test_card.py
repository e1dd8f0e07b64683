"""The dataset card: counts, rejects by reason, what was drawn, and pictures; read from the heads of shards alone."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from infra.errors import JobError
from infra.recipe import load_recipe
from pipelines import card_figures, card_samples
from pipelines.card import write_card
from pipelines.card_figures import draw_histograms
from pipelines.card_samples import Parameter, first_samples, glimpse, parameters
from pipelines.dataset import freeze_plan, iter_shard, open_dataset
from pipelines.plan import plan_pairs
from pipelines.samples import pair_samples
from pipelines.shard import make_shard
from tests.pipelines.conftest import SMALL


def made(recipe, source, out):
    """A finished dataset with its card, made here without Ray."""
    planned = plan_pairs(recipe, str(source), str(out))
    freeze_plan(str(out), planned.document)
    records = []
    for shard in range(planned.plan.num_shards):
        rejects = []
        samples = pair_samples(planned.plan, shard, planned.images_of(shard), rejects)
        records.append(make_shard(str(out), shard, samples, rejects))
    write_card(str(out), planned.document, records)
    return open_dataset(str(out))


@pytest.fixture(scope="module")
def dataset(photos, tmp_path_factory):
    source = shutil.copytree(photos, tmp_path_factory.mktemp("card") / "photos")
    (source / "damaged.png").write_bytes((photos / "coffee.png").read_bytes()[:900])
    Image.new("RGB", (63, 500)).save(source / "thin.png")
    Image.new("RGB", (63, 500)).save(source / "thin too.png")
    return made(load_recipe("realsr_x4", SMALL), source, source.parent / "out")


def test_the_readme_counts_what_is_there_and_what_is_not(dataset, tmp_path):
    with open(f"{dataset.url}/README.md") as file:  # noqa: PTH123
        lines = file.read().splitlines()
    assert "| samples | 9 of 18 planned |" in lines
    assert any(
        line.startswith("| source | `") and line.endswith("/photos`: 6 images, 3 variants each |") for line in lines
    )
    assert "| degradation | realesrgan |" in lines
    assert "| too_small | 2 | 6 | 33.33% | `thin too.png` |" in lines
    assert "| unreadable | 1 | 3 | 16.67% | `damaged.png` |" in lines
    assert "Over 9 samples spread over the dataset." in lines
    drawn = [sample["record"] for shard in range(5) for sample in iter_shard(dataset, shard, fields=["record"])]
    qualities = [step["quality"] for record in drawn for step in record["degradation"]["steps"] if step["op"] == "jpeg"]
    (row,) = (line for line in lines if line.startswith("| jpeg.quality |"))
    assert row.endswith(f"| {min(qualities)} … {np.median(qualities):.4g} … {max(qualities)} |")


def test_rejects_name_every_sample_that_is_missing(dataset):
    with open(f"{dataset.url}/rejects.jsonl") as file:  # noqa: PTH123
        rejects = [json.loads(line) for line in file]
    assert len(rejects) == 9
    assert {reject["uri"] for reject in rejects} == {"damaged.png", "thin.png", "thin too.png"}
    assert all(reject["detail"] and reject["reason"] for reject in rejects)


def test_the_picture_shows_pairs_as_they_are(dataset):
    with Image.open(f"{dataset.url}/preview.png") as preview:
        pixels = np.asarray(preview)
    first = glimpse(dataset)[0]
    lq = np.repeat(np.repeat(first["lq"], 11, axis=0), 11, axis=1)  # 16 -> 176, unsmoothed
    np.testing.assert_array_equal(pixels[16 : 16 + 176, 16 : 16 + 176], lq)


@pytest.mark.parametrize("task", ["inpaint_natural", "deblur", "face_512", "bicubic_x4"])
def test_every_kind_of_degradation_has_a_card(task, photos, tmp_path):
    made(load_recipe(task, SMALL), photos, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    expected = {"inpaint_natural": "| mask.share_missing | 100% |", "deblur": "| sensor_noise.shot | 100% |",
                "face_512": "| jpeg.quality |", "bicubic_x4": "| horizontal_flip | 100% |"}  # fmt: skip
    assert expected[task] in text
    assert (tmp_path / "out" / "preview.png").stat().st_size > 10_000


def test_only_the_heads_of_shards_are_read(dataset, monkeypatch):
    whole = glimpse(dataset)
    assert [sample["key"] for sample in whole] == sorted(sample["key"] for sample in whole)
    assert len(whole) == 9
    largest = max(record.bytes for record in dataset.shards)
    monkeypatch.setattr(card_samples, "BYTES_SEEN", largest // 2)
    part = {sample["key"]: sample for sample in glimpse(dataset)}
    assert 0 < len(part) < 9
    for sample in whole:
        if sample["key"] in part:
            np.testing.assert_array_equal(part[sample["key"]]["hq"], sample["hq"])
    monkeypatch.setattr(card_samples, "SHARDS_SEEN", 1)
    assert {sample["key"][:6] for sample in glimpse(dataset)} == {"000000"}


@pytest.mark.parametrize("seen", [1, 600, 4000, 20_000])
def test_a_sample_larger_than_the_head_is_read_all_the_same(seen, dataset, monkeypatch):
    """As the first sample of 2048x2048 pixels does, which no head of 4 MB holds."""
    record = next(record for record in dataset.shards if record.num_samples)
    whole = first_samples(dataset.url, record)
    monkeypatch.setattr(card_samples, "BYTES_SEEN", seen)
    part = first_samples(dataset.url, record)
    assert 0 < len(part) <= len(whole)
    np.testing.assert_array_equal(part[0]["hq"], whole[0]["hq"])
    assert part[0].keys() == whole[0].keys()


def test_a_damaged_shard_is_not_passed_over(dataset, tmp_path):
    shutil.copytree(dataset.url, tmp_path / "out")
    copy = open_dataset(str(tmp_path / "out"))
    tar = tmp_path / "out" / "shards" / "000000.tar"
    tar.write_bytes(tar.read_bytes()[:-600])
    with pytest.raises(JobError, match="its record says"):
        glimpse(copy)
    tar.unlink()
    with pytest.raises(JobError, match=r"000000\.tar: is missing although it was committed; delete .*000000\.json"):
        glimpse(copy)


def test_parameters_that_never_vary_are_left_out():
    def sample(key, sigma, **more):
        steps = [{"op": "noise", "sigma": sigma, "gray": False, "seed": int(key)}]
        return {"key": key, "record": {"horizontal_flip": False, "degradation": {"steps": steps, **more}}}

    (only,) = parameters([sample("1", 2.0), sample("2", 3.0), sample("3", 2.5)])
    assert (only.name, only.values, only.num_samples) == ("noise.sigma", [2.0, 3.0, 2.5], 3)
    assert only.quantiles() == (2.0, 2.5, 3.0)


def test_whole_numbers_of_a_small_range_get_a_bar_each():
    counts, edges = Parameter("size", [3, 5, 5, 7], 4).histogram(bins=16)
    assert counts.tolist() == [1, 0, 2, 0, 1]
    assert edges.tolist() == [2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
    assert Parameter("sigma", [0.5, 1.0], 2).histogram(bins=4)[0].tolist() == [1, 0, 0, 1]


def test_histograms_are_drawn_to_scale():
    page = draw_histograms([Parameter("x", [0.0] * 10 + [1.0] * 5, 15)])
    bar = (page == (0x3B, 0x6E, 0xA5)).all(axis=2)
    columns = bar.sum(axis=0)
    tall, short = columns.max(), columns[np.flatnonzero(columns)[-1]]
    assert abs(short / tall - 0.5) < 0.05


def test_odd_names_break_no_table_and_no_picture(photos, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("new\nline.png", "名前.png", "Ночь.png"):
        shutil.copy(photos / "coffee.png", tmp_path / "photos" / name)
    (tmp_path / "photos" / "a|b`c``d`\n.png").write_bytes(b"damaged")
    recipe = load_recipe("realsr_x4", [*SMALL, "degradation=bicubic", 'name="a|b"'])
    made(recipe, tmp_path / "photos", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| unreadable | 1 | 3 | 25.00% | ``` a\\|b`c``d`\\n.png ``` |" in text.splitlines()
    assert "| recipe | a\\|b (super_resolution, x4) |" in text.splitlines()
    assert "| degradation | bicubic |" in text.splitlines()
    assert (tmp_path / "out" / "preview.png").exists()


def test_characters_that_the_font_lacks_are_replaced():
    assert card_figures._drawable("a b-ä_1.png") == "a b-ä_1.png"
    assert card_figures._drawable("名\n前.png") == "???.png"
