import json

import cv2
import numpy as np
import pytest
from PIL import Image

from degradations import build
from degradations.builder import parse_section
from degradations.image_loading import load_rgb, size_of
from degradations.paired import crop, match_names, pair_of


@pytest.fixture
def folders(tmp_path, rng):
    for name in ("a", "sub/b"):
        for kind, side in (("hq", 64), ("lq", 16)):
            path = tmp_path / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return tmp_path


def read(path):
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])


def section(root):
    return {"name": "paired", "hq_dir": str(root / "hq"), "lq_dir": str(root / "lq")}


def replayed(degrade, pair):
    return degrade.replay(pair.hq, json.loads(json.dumps(pair.record)))


def test_pairs_are_matched_by_name_and_replay(folders):
    pairs = build(section(folders), scale=4)
    assert pairs.names == ["a", "sub/b"]
    pair = pairs.pair("sub/b")
    np.testing.assert_array_equal(pair.hq, read(folders / "hq/sub/b.png"))
    np.testing.assert_array_equal(pair.lq, read(folders / "lq/sub/b.png"))
    np.testing.assert_array_equal(replayed(pairs, pair).lq, pair.lq)
    stored = {"name": "sub/b.png", "height": 16, "width": 16, "left": 0, "top": 0, "mirrored": False}
    assert pair.record["stored"] == stored


def test_the_lq_folder_is_enough(folders):
    pairs = build({"name": "paired", "lq_dir": str(folders / "lq")}, scale=4)
    hq = read(folders / "hq/a.png")
    pair = pairs(hq, seed=3, key="a", variant=2)
    np.testing.assert_array_equal(pair.lq, read(folders / "lq/a.png"))
    assert (pair.record["seed"], pair.record["key"], pair.record["variant"]) == (3, "a", 2)
    with pytest.raises(ValueError, match=r"degradation\.hq_dir is not given; add it, or hand the HQ in"):
        pairs.pair("a")
    with pytest.raises(ValueError, match=r"a\.png is 16x16 pixels, not 8x8, which its HQ at scale 4 asks for"):
        pairs(hq[:32, :32], seed=0, key="a")


def test_markers_of_lq_names_may_be_left_out_where_the_hq_is_handed_in(folders):
    hq = read(folders / "hq/a.png")
    lq = read(folders / "lq/a.png")
    (folders / "lq/a.png").rename(folders / "lq/ax4.png")
    pairs = build({"name": "paired", "lq_dir": str(folders / "lq")}, scale=4)
    for key in ("a", "a_HR", "ax4"):
        np.testing.assert_array_equal(pairs(hq, seed=0, key=key).lq, lq)
    cv2.imwrite(str(folders / "lq/a_LR4.png"), lq)
    with pytest.raises(ValueError, match="key is 'a'; give the name of a pair"):
        build({"name": "paired", "lq_dir": str(folders / "lq")}, scale=4)(hq, seed=0, key="a")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_images_are_loaded_upright(tmp_path, orientation, kind):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    path, exif = tmp_path / f"a.{kind}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **({"quality": 100} if kind == "jpg" else {}))
    loaded = load_rgb(path)
    assert size_of(path) == loaded.shape[:2] == ((16, 8) if orientation == 6 else (8, 16))
    assert loaded[0, 0, 0] > 250
    assert loaded[-1, -1, 0] < 5
    assert (loaded[-1, 0, 0] < 5) == (orientation == 6)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_gray_are_scaled(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), ramp)
    loaded = load_rgb(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(loaded, np.repeat(np.rint(ramp / 257)[..., None], 3, axis=2))


def test_a_section_is_read_without_looking_at_folders():
    assert parse_section({"name": "paired", "lq_dir": "s3://bucket/lq"}).lq_dir == "s3://bucket/lq"
    with pytest.raises(ValueError, match=r"degradation\.lq_dir is missing; add it"):
        parse_section("paired")


def test_arrays_make_the_same_pair_as_folders(folders):
    degrade = build(section(folders), scale=4)
    hq, lq = read(folders / "hq/a.png"), read(folders / "lq/a.png")
    pair = pair_of(hq, lq, 4, lq_name="a.png", seed=1, key="a")
    by_folder = degrade(hq, seed=1, key="a")
    assert pair.record == by_folder.record
    np.testing.assert_array_equal(pair.lq, by_folder.lq)
    with pytest.raises(ValueError, match=r"a\.png: HQ is 64x64 pixels, LQ 15x16; at scale 4 the LQ must be 16x16"):
        pair_of(hq, lq[:, :15], 4, lq_name="a.png")
    with pytest.raises(ValueError, match=r"lq is gray .*cv2\.cvtColor\(lq"):
        pair_of(hq, lq[..., 0], 4, lq_name="a.png")
    with pytest.raises(ValueError, match="hq is 64x62 pixels, not a multiple of the scale 4; crop it to 64x60"):
        pair_of(hq[:62], lq, 4, lq_name="a.png")


def test_crops_fit_each_other_and_replay(folders):
    degrade = build(section(folders), scale=4)
    pair = degrade.pair("a")
    part = crop(pair, left=16, top=8, size=32)
    np.testing.assert_array_equal(part.hq, pair.hq[8:40, 16:48])
    np.testing.assert_array_equal(part.lq, pair.lq[2:10, 4:12])
    mirrored = crop(pair, left=16, top=8, size=32, mirrored=True)
    np.testing.assert_array_equal(mirrored.lq, part.lq[:, ::-1])
    np.testing.assert_array_equal(mirrored.hq, part.hq[:, ::-1])
    for made in (part, mirrored, crop(mirrored, 0, 0, 32), crop(mirrored, 0, 0, 32, mirrored=True)):
        np.testing.assert_array_equal(replayed(degrade, made).lq, made.lq)
    small = crop(crop(pair, 0, 0, 48, mirrored=True), 8, 4, 36)  # a crop of a crop
    np.testing.assert_array_equal(small.lq, pair.lq[1:10, 1:10][:, ::-1])
    assert small.record["stored"]["left"] == 4
    np.testing.assert_array_equal(replayed(degrade, small).lq, small.lq)


def test_crops_that_cannot_be_are_named(folders, photo):
    pair = build(section(folders), scale=4).pair("a")
    with pytest.raises(ValueError, match="the crop 3, 8, 32 is no multiple of the scale 4; round it"):
        crop(pair, left=3, top=8, size=32)
    with pytest.raises(ValueError, match="leaves the image of 64x64 pixels; move it inside"):
        crop(pair, left=48, top=8, size=32)
    with pytest.raises(ValueError, match="'bicubic' pair was made from its HQ; crop the HQ, then degrade it"):
        crop(build("bicubic")(photo, seed=0), 0, 0, 32)


def test_names_match_without_their_extensions():
    assert match_names(["b/x.png", "a.JPG"], ["a.png", "b/x.webp"]) == [("a.JPG", "a.png"), ("b/x.png", "b/x.webp")]
    with pytest.raises(ValueError, match=r"2 images have no LQ of the same name: a, c; add or remove them"):
        match_names(["a.png", "b.png", "c.png"], ["b.png"])
    with pytest.raises(ValueError, match=r"1 image has no HQ of the same name: d; add or remove them"):
        match_names(["b.png"], ["b.png", "d.png"])
    with pytest.raises(ValueError, match=r"the LQ images 'a\.png' and 'a\.jpg' share a name; keep one of them"):
        match_names(["a.png"], ["a.png", "a.jpg"])


@pytest.mark.parametrize(
    ("hq", "lq"),
    [
        ("0801.png", "0801x4.png"),  # DIV2K
        ("Canon_001_HR.png", "Canon_001_LR4.png"),  # RealSR
        ("sub/img_001_SRF_4_HR.png", "sub/img_001_SRF_4_LR.png"),
        ("a_gt.png", "a-lq.webp"),
    ],
)
def test_names_of_published_sets_match_without_their_markers(hq, lq):
    assert match_names([hq, f"other/{hq}"], [f"other/{lq}", lq]) == sorted([(hq, lq), (f"other/{hq}", f"other/{lq}")])


def test_markers_are_left_out_only_where_no_name_matches_as_it_is():
    assert match_names(["a.png", "ax4.png"], ["ax4.jpg", "a.jpg"]) == [("a.png", "a.jpg"), ("ax4.png", "ax4.jpg")]
    with pytest.raises(ValueError, match="1 image has no LQ of the same name: b; add or remove them"):
        match_names(["a.png", "b.png"], ["a.png", "bx4.png"])
    with pytest.raises(ValueError, match=r"the LQ images 'ax2\.png' and 'ax4\.png' share a name; keep one of them"):
        match_names(["a.png"], ["ax2.png", "ax4.png"])
    with pytest.raises(ValueError, match="1 image has no LQ of the same name: x4; add or remove them"):
        match_names(["x4.png"], ["x2.png"])


def test_a_pair_with_markers_goes_by_the_name_of_its_hq(folders):
    for kind, marker in (("hq", "_HR"), ("lq", "_LR4")):
        for path in list((folders / kind).rglob("*.png")):
            path.rename(path.with_name(f"{path.stem}{marker}.png"))
    pairs = build(section(folders), scale=4)
    assert pairs.names == ["a_HR", "sub/b_HR"]
    pair = pairs.pair("a_HR")
    np.testing.assert_array_equal(pair.lq, read(folders / "lq/a_LR4.png"))
    assert pair.record["stored"]["name"] == "a_LR4.png"


def test_folders_that_do_not_match_are_named(folders, tmp_path):
    with pytest.raises(ValueError, match=r"a\.png: HQ is 64x64 pixels, LQ 16x16; at scale 2 the LQ must be 32x32"):
        build(section(folders), scale=2)
    with pytest.raises(ValueError, match="key is 'z'; give the name of a pair, such as 'a'"):
        build(section(folders), scale=4)(np.zeros((64, 64, 3), np.uint8), seed=0, key="z")
    with pytest.raises(ValueError, match=r"degradation\.hq_dir is .*nowhere', which is no folder"):
        build(section(folders) | {"hq_dir": str(tmp_path / "nowhere")}, scale=4)
    (folders / "lq/a.png").rename(folders / "lq/c.png")
    with pytest.raises(ValueError, match="1 image has no LQ of the same name: a; add or remove"):
        build(section(folders), scale=4)
    (folders / "lq/c.png").unlink()
    (folders / "lq/a.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"a\.png is no readable image"):
        build(section(folders), scale=4)
    (folders / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        build(section(folders) | {"lq_dir": str(folders / "empty")}, scale=4)


def test_a_record_that_does_not_fit_is_named(folders):
    degrade = build(section(folders), scale=4)
    pair = degrade.pair("a")
    with pytest.raises(ValueError, match=r"record\.stored is missing"):
        degrade.replay(pair.hq, {key: value for key, value in pair.record.items() if key != "stored"})
    cv2.imwrite(str(folders / "lq/a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png is 8x8 pixels, not 16x16"):
        degrade.replay(pair.hq, pair.record)
