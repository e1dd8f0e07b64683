"""Test sets: datasets of shards, folder pairs, and what belongs together in them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from degradations import build
from degradations.words import describe_record
from evaluation.pair_set import BrokenPair, Pair, open_pairs, read_pairs
from infra.errors import UsageError
from pipelines.dataset import freeze_plan
from pipelines.shard import encode_json, encode_png, make_shard


def all_pairs(pairs):
    return [pair for shard in pairs.shards for pair in read_pairs(pairs, shard)]


def test_test_set_is_named_by_its_content(folder_pairs, broken_pairs):
    whole, cut = open_pairs(str(folder_pairs)), open_pairs(str(folder_pairs), max_images=4)
    assert (whole.num_pairs, cut.num_pairs) == (9, 4)
    assert len({whole.digest, cut.digest, open_pairs(str(broken_pairs)).digest}) == 3
    assert whole.digest == open_pairs(str(folder_pairs), images_per_shard=2).digest


def test_two_folders_anywhere_are_the_same_set(folder_pairs, tmp_path):
    shutil.copytree(folder_pairs / "hq", tmp_path / "sharp")
    shutil.copytree(folder_pairs / "lq", tmp_path / "small")
    whole = open_pairs(str(folder_pairs))
    split = open_pairs(str(tmp_path / "sharp"), lq=str(tmp_path / "small"), scale=4)
    assert split.digest == whole.digest
    assert all(isinstance(pair, Pair) for pair in all_pairs(split))


def test_lq_names_may_end_in_the_scale(folder_pairs, tmp_path):
    shutil.copytree(folder_pairs / "hq", tmp_path / "hq")
    (tmp_path / "lq").mkdir()
    for path in (folder_pairs / "lq").iterdir():
        shutil.copy(path, tmp_path / "lq" / f"{path.stem}x4.png")
    assert open_pairs(str(tmp_path), scale=4).digest == open_pairs(str(folder_pairs)).digest
    with pytest.raises(UsageError, match="no name is in both"):
        open_pairs(str(tmp_path), scale=2)


def test_names_of_both_sides_may_have_markers(folder_pairs, tmp_path):
    for side, marker in (("hq", "_HR"), ("lq", "_LR4")):
        (tmp_path / side).mkdir()
        for path in (folder_pairs / side).iterdir():
            shutil.copy(path, tmp_path / side / f"{path.stem}{marker}.png")
    assert open_pairs(str(tmp_path), scale=4).digest == open_pairs(str(folder_pairs)).digest


def test_a_name_that_ends_in_the_scale_itself_stays(tmp_path):
    for folder, side in (("hq", 32), ("lq", 8)):
        (tmp_path / folder).mkdir()
        for name in ("phone", "phonex4"):
            Image.new("RGB", (side, side), (len(name), 0, 0)).save(tmp_path / folder / f"{name}.png")
    pairs = all_pairs(open_pairs(str(tmp_path), scale=4))
    assert [(pair.key, pair.hq[0, 0, 0], pair.lq[0, 0, 0]) for pair in pairs] == [("phone", 5, 5), ("phonex4", 7, 7)]


def test_folders_that_hold_nothing_are_one_clear_line(folder_pairs, tmp_path):
    with pytest.raises(UsageError, match=r"neither a dataset .* nor a folder pair; .* and --lq"):
        open_pairs(str(tmp_path))
    (tmp_path / "hq").mkdir()
    with pytest.raises(UsageError, match="the test set is empty, there is no image in hq/"):
        open_pairs(str(tmp_path))
    with pytest.raises(UsageError, match=r"neither there nor in lq .* is an image"):
        open_pairs(str(tmp_path / "hq"), lq=str(tmp_path / "lq"))
    for suffix in ("png", "jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "hq" / f"a.{suffix}")
    with pytest.raises(UsageError, match="two files are called 'a'; keep one of them"):
        open_pairs(str(tmp_path))


def test_a_folder_mistyped_is_no_test_set(folder_pairs, tmp_path):
    hq, lq = str(folder_pairs / "hq"), str(folder_pairs / "lq")
    with pytest.raises(UsageError, match=rf"data '{hq}' holds 9 images, such as .* and lq '{hq}s' holds no image: "):
        open_pairs(hq, lq=f"{hq}s")
    (tmp_path / "lq").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "lq" / "x.png")
    with pytest.raises(UsageError, match=r"lq '.*' holds 1 image, such as 'x': no name is in both; give folders"):
        open_pairs(hq, lq=str(tmp_path / "lq"))
    (tmp_path / "hq").mkdir()
    with pytest.raises(UsageError, match=r"data '.*/hq' holds no image and lq '.*/lq' holds 1 image, such as 'x'"):
        open_pairs(str(tmp_path))
    assert open_pairs(hq, lq=lq).num_pairs == 9


def test_dataset_shards_are_read_with_their_records(photos, tmp_path):
    url, degrade = str(tmp_path), build("realesrgan", scale=4)
    freeze_plan(url, {"schema_version": 1, "identity": {}, "plan_hash": "p", "num_shards": 2})
    hq = np.ascontiguousarray(np.asarray(Image.open(photos / "chelsea.png"))[:64, :64])
    for shard in range(2):
        samples = []
        for slot in range(4):
            pair = degrade(hq, seed=slot)
            record = {"source": f"photo{slot // 2}.png", "degradation": pair.record}
            lq = encode_png(pair.lq) if (shard, slot) != (1, 1) else b"damaged"
            samples.append({"__key__": f"{shard:06d}-{slot:06d}", "hq.png": encode_png(hq), "lq.png": lq,
                            "json": encode_json(record)})  # fmt: skip
        make_shard(url, shard, samples)
    pairs = open_pairs(url, max_images=6)
    read = all_pairs(pairs)
    assert [shard.num_pairs for shard in pairs.shards] == [4, 2]
    assert [type(pair) for pair in read] == [Pair] * 5 + [BrokenPair]
    assert {pair.group for pair in read[:5]} == {"photo0.png", "photo1.png"}
    assert all(pair.lq.shape == (16, 16, 3) for pair in read[:5])
    assert any("JPEG quality" in step for step in describe_record(read[0].record["degradation"]))
    assert read[5] == BrokenPair("000001-000001", "the sample is damaged: not a readable PNG")
    assert open_pairs(url).digest != pairs.digest
    with pytest.raises(UsageError, match="is a dataset, which has LQ images of its own; leave --lq out"):
        open_pairs(url, lq=url)


def test_a_dataset_without_samples_is_empty(tmp_path):
    freeze_plan(str(tmp_path), {"schema_version": 1, "identity": {}, "plan_hash": "p", "num_shards": 0})
    with pytest.raises(UsageError, match="the test set is empty"):
        open_pairs(str(tmp_path))
