"""Pairs that exist already: matched by name, checked, cut at the same place; everything else is a reject."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from degradations.paired import name_of, unmarked
from infra import storage
from infra.errors import UsageError
from infra.recipe import load_recipe
from pipelines.pairs import make_pairs
from pipelines.plan import plan_pairs
from pipelines.source_pairs import stems
from tests.pipelines.conftest import SMALL, planned_samples


@pytest.fixture
def folders(photos, tmp_path) -> tuple[Path, Path]:
    """hq/ with three photos of 192x192, one in a sub-folder; lq/ with each of them at a quarter, of other endings."""
    hq, lq = tmp_path / "hq", tmp_path / "lq"
    for name, place in (("astronaut", "a"), ("chelsea", "cats/b"), ("coffee", "c")):
        photo = Image.open(photos / f"{name}.png")
        for folder, image, ending in ((hq, photo, "png"), (lq, photo.resize((48, 48)), "bmp")):
            path = folder / f"{place}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return hq, lq


def paired(lq, *overrides: str):
    return load_recipe("realsr_x4", [*SMALL, "degradation.name=paired", f"degradation.lq_dir={lq}", *overrides])


def test_both_are_cut_at_the_same_place(folders):
    hq, lq = folders
    samples, rejects = planned_samples(paired(lq), hq)
    assert len(samples) == 9
    assert not rejects
    places = set()
    for sample in samples.values():
        record, crop = sample["record"], sample["record"]["crop"]
        whole_hq = np.asarray(Image.open(hq / record["source"]))
        whole_lq = np.asarray(Image.open(lq / record["source"].replace(".png", ".bmp")))
        assert crop["top"] % 4 == crop["left"] % 4 == 0
        cut = whole_hq[crop["top"] : crop["top"] + 64, crop["left"] : crop["left"] + 64]
        lq_cut = whole_lq[crop["top"] // 4 : crop["top"] // 4 + 16, crop["left"] // 4 : crop["left"] // 4 + 16]
        turn = np.fliplr if record["horizontal_flip"] else np.asarray
        np.testing.assert_array_equal(sample["hq"], turn(cut))
        np.testing.assert_array_equal(sample["lq"], turn(lq_cut))
        assert record["degradation"]["stored"]["name"] == record["source"].replace(".png", ".bmp")
        places.add((crop["top"], crop["left"], record["horizontal_flip"]))
    assert len(places) > 6


def test_what_has_no_partner_or_a_wrong_one_is_rejected(folders, photos):
    hq, lq = folders
    shutil.copy(photos / "coffee.png", hq / "lonely.png")
    shutil.copy(hq / "a.png", hq / "a.jpg")  # now nobody knows which of the two a.bmp belongs to
    Image.new("RGB", (47, 48)).save(lq / "c.bmp")
    (lq / "cats" / "b.bmp").write_bytes(b"damaged")
    Image.new("RGB", (48, 48)).save(lq / "extra.png")
    samples, rejects = planned_samples(paired(lq), hq)
    assert not samples
    assert {(reject.uri, reject.reason) for reject in rejects} == {
        ("lonely.png", "no_lq"), ("a.png", "duplicate_key"), ("a.jpg", "duplicate_key"), ("c.png", "wrong_size"),
        ("cats/b.png", "unreadable"),
    }  # fmt: skip
    details = {reject.uri: reject.detail for reject in rejects}
    assert "at scale 4 the LQ must be 48x48" in details["c.png"]
    assert details["cats/b.png"].startswith("LQ cats/b.bmp: ")


def test_markers_of_published_sets_do_not_matter(folders):
    hq, lq = folders
    expected = planned_samples(paired(lq), hq)[0]
    for path in lq.rglob("*.bmp"):
        path.rename(path.with_name(f"{path.stem}x4.bmp"))
    samples, rejects = planned_samples(paired(lq), hq)
    assert not rejects
    for key, sample in expected.items():
        np.testing.assert_array_equal(samples[key]["lq"], sample["lq"])
    shutil.copy(lq / "ax4.bmp", lq / "ax2.bmp")
    samples, rejects = planned_samples(paired(lq), hq)
    assert {(reject.uri, reject.reason) for reject in rejects} == {("a.png", "duplicate_key")}


def test_folders_on_s3_give_the_same_plan_and_pairs(folders, s3):
    hq, lq = folders
    for side, folder in (("hq", hq), ("lq", lq)):
        for entry in storage.list_files(str(folder)):
            storage.upload(Path(entry.url), storage.join(s3, side, entry.name))
    here, there = paired(lq), paired(storage.join(s3, "lq"))
    plans = [plan_pairs(here, str(hq), "out"), plan_pairs(there, storage.join(s3, "hq"), "out")]
    assert plans[0].document["plan_hash"] == plans[1].document["plan_hash"]
    samples = [planned_samples(here, hq)[0], planned_samples(there, storage.join(s3, "hq"))[0]]
    assert samples[0].keys() == samples[1].keys()
    for one, other in zip(samples[0].values(), samples[1].values(), strict=True):
        assert one["record"] == other["record"]
        np.testing.assert_array_equal(one["hq"], other["hq"])
        np.testing.assert_array_equal(one["lq"], other["lq"])


@pytest.mark.usefixtures("local_ray")
@pytest.mark.slow
def test_relative_folders_mean_what_they_mean_to_the_command(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no worker stands
    assert "9 pairs in 3 shards (3 made now, 0 rejected)" in make_pairs(paired("lq"), "hq", "out")


@pytest.mark.usefixtures("local_ray")
def test_a_changed_lq_folder_is_another_plan(folders, tmp_path):
    hq, lq = folders
    make_pairs(paired(lq), str(hq), str(tmp_path / "out"))
    assert (tmp_path / "out" / "preview.png").exists()
    lq = lq.rename(tmp_path / "moved")
    assert "0 made now" in make_pairs(paired(lq), str(hq), str(tmp_path / "out"))
    Image.new("RGB", (48, 49)).save(lq / "c.bmp")
    with pytest.raises(UsageError, match=r"holds another dataset \(source\.digest"):
        make_pairs(paired(lq), str(hq), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["degradation.lq_dir=null"], r"degradation\.lq_dir is None"),
        (["degradation.lq_dir=/nowhere"], "source '/nowhere': does not exist"),
        (["degradation.hq_dir=/hq"], "the HQ images are those of --source; remove it"),
        (["task=inpainting", "scale=1"], "'paired' makes no pairs for task 'inpainting'; choose one of inpainting"),
        (["degradation={name: inpainting}", "scale=1"], "'inpainting' makes no pairs for task 'super_resolution'"),
        (["shards.hq_size=72", "scale=8"], None),
    ],
)
def test_bad_recipes_are_one_line(overrides, expected, folders):
    hq, lq = folders
    recipe = paired(lq, *overrides)
    if expected is None:  # nothing wrong with the recipe: the images are of another scale
        assert {reject.reason for reject in planned_samples(recipe, hq)[1]} == {"wrong_size"}
        return
    with pytest.raises(UsageError, match=expected) as raised:
        planned_samples(recipe, hq)
    assert "\n" not in str(raised.value)


def test_names_are_those_of_the_degradation():
    names = ["a.png", "b/a.tar.png", "b.c/a.JPEG", "b.c/a", ".png", "b/.png", "a..png", "ä/é.tif", "a.", "x/.a.png"]
    names += ["a_HR.png", "b/x4.png", "b/0001x4.png", "b/a_LR4", "HR.png", "a-gt.png", "ax10.png"]
    stored = pa.array(names, pa.large_string())
    assert list(stems(stored)) == [name_of(name) for name in names]
    assert list(stems(stored, bare=True)) == [unmarked(name_of(name)) for name in names]


def test_nothing_in_common_and_lists_are_refused(folders, tmp_path):
    hq, lq = folders
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (48, 48)).save(other / "x.png")
    with pytest.raises(UsageError, match="no image there is named as one of"):
        planned_samples(paired(other), hq)
    listing = tmp_path / "list.txt"
    listing.write_text(str(hq / "a.png"))
    with pytest.raises(UsageError, match="is a list; images that are matched by name lie in a folder"):
        planned_samples(paired(lq), listing)
