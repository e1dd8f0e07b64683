"""What fits together is known before anything is listed or written: places of source and dataset, sizes of crops."""

import re
import shutil

import pytest

from infra import storage
from infra.errors import UsageError
from infra.recipe import load_recipe
from pipelines.plan import plan_pairs
from tests.pipelines.conftest import SMALL, write_tar


@pytest.mark.parametrize("below", ["", "pairs", "deep/pairs"])
@pytest.mark.parametrize("kind", ["folder", "link", "s3"])
def test_a_dataset_inside_its_source_is_refused(kind, below, photos, recipe, tmp_path, request):
    """Its own files would be listed with the source the next time."""
    source = request.getfixturevalue("s3") if kind == "s3" else str(shutil.copytree(photos, tmp_path / "photos"))
    if kind == "link":
        (tmp_path / "link").symlink_to(source)
    out = storage.join(str(tmp_path / "link") if kind == "link" else source, *filter(None, [below]))
    with pytest.raises(UsageError, match="would become a part of its own source; choose an --out beside it"):
        plan_pairs(recipe, source, out)
    paired = load_recipe("realsr_x4", [*SMALL, "degradation.name=paired", f"degradation.lq_dir={source}"])
    with pytest.raises(UsageError, match=r"lies in degradation\.lq_dir"):
        plan_pairs(paired, str(tmp_path / "hq"), out)


@pytest.mark.parametrize("source", ["", "shards", "shards/000000.tar", "shards/{000000..000000}.tar", "list.txt"])
def test_tars_of_the_source_are_no_shards(source, photos, recipe, tmp_path):
    """The job would remove them as leftovers of its own."""
    write_tar(tmp_path / "wds" / "shards" / "000000.tar", [("a.png", (photos / "coffee.png").read_bytes())])
    (tmp_path / "wds" / "list.txt").write_text("shards/000000.tar")
    with pytest.raises(UsageError, match=r"choose (another --out|an --out beside it)"):
        plan_pairs(recipe, str(tmp_path / "wds" / source), str(tmp_path / "wds"))


def test_a_source_below_or_beside_its_dataset_is_none_of_it(photos, recipe, tmp_path):
    for place in ("data/photos", "data-photos"):
        source = shutil.copytree(photos, tmp_path / place)
        assert plan_pairs(recipe, str(source), str(tmp_path / "data")).source.num_images == 3
    (tmp_path / "data" / "list.txt").write_text("photos/coffee.png")
    assert plan_pairs(recipe, str(tmp_path / "data" / "list.txt"), str(tmp_path / "data")).source.num_images == 1


@pytest.mark.parametrize(
    ("overrides", "least"),
    [
        (["shards.hq_size=16", "degradation={name: bsrgan}"], 32),
        (["shards.hq_size=56", "scale=8"], 64),
        (["shards.hq_size=24", "degradation={name: bicubic}"], 32),
    ],
)
def test_crops_too_small_for_the_scale_are_refused_at_once(overrides, least, photos, tmp_path):
    with pytest.raises(UsageError, match=rf"shards\.hq_size: \d+ leaves LQ images of .*; give {least} at least"):
        plan_pairs(load_recipe("realsr_x4", [*SMALL, *overrides]), str(photos), str(tmp_path))


@pytest.mark.parametrize("override", ["shards.seed=true", "shards.variants=2.0", "shards.hq_size=64.0"])
def test_counts_are_whole_numbers(override, photos, tmp_path):
    key = re.escape(override.partition("=")[0])
    with pytest.raises(UsageError, match=rf"{key}: .* is not accepted: Input should be a valid integer"):
        plan_pairs(load_recipe("realsr_x4", [*SMALL, override]), str(photos), str(tmp_path))


@pytest.mark.parametrize(("source", "out"), [("", "out"), ("photos", ""), ("photos", "s3://"), ("s3:/b/x", "out")])
def test_empty_and_mistyped_places_are_refused(source, out, photos, recipe):
    with pytest.raises(UsageError, match=r"is empty; give a folder|names no bucket; write s3://bucket/prefix"):
        plan_pairs(recipe, str(photos) if source == "photos" else source, out)
