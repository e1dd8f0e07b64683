"""The second-order degradation: its distribution, its exactness, and what it refuses."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from degradations import build
from tests.degradations.lq_statistics import crops, ks_distances, lq_statistics

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "degradation_realesrgan_x4.npz")


def test_statistics_agree_with_the_original():
    spec = json.loads(str(GOLDEN["spec"]))
    photos = crops(spec)
    degrade = build("realesrgan", scale=4)
    count = 2400
    pairs = (degrade(photos[i % len(photos)], seed=20, variant=i) for i in range(count))
    ours = np.array([[*lq_statistics(pair.hq, pair.lq), i % len(photos)] for i, pair in enumerate(pairs)])
    distances = dict(zip(spec["stat_names"], ks_distances(ours, GOLDEN["stats"]), strict=True))
    assert max(distances.values()) <= 0.08, distances


@pytest.mark.parametrize("preset", ["training", "testing"])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_replay_from_json_is_bit_identical(photo, preset, scale):
    degrade = build({"name": "realesrgan", "preset": preset}, scale=scale)
    for seed in range(4):
        pair = degrade(photo, seed=seed)
        assert pair.lq.shape == (256 // scale, 256 // scale, 3)
        assert pair.lq.dtype == np.uint8
        again = degrade.replay(photo, json.loads(json.dumps(pair.record)))
        np.testing.assert_array_equal(again.lq, pair.lq)
        assert again.record == pair.record


def test_a_sample_depends_on_seed_key_and_variant_alone(photo):
    names = [(1, "a", 0), (2, "a", 0), (1, "b", 0), (1, "a", 1)]
    forwards = [build("realesrgan")(photo, seed=s, key=k, variant=v).lq.tobytes() for s, k, v in names]
    backwards = [build("realesrgan")(photo, seed=s, key=k, variant=v).lq.tobytes() for s, k, v in reversed(names)]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == len(names)


def test_the_number_of_threads_changes_nothing(photo):
    degrade = build("realesrgan")
    threads = cv2.getNumThreads()
    try:
        results = []
        for count in (1, 4):
            cv2.setNumThreads(count)
            results.append([degrade(photo, seed=seed).lq.tobytes() for seed in range(12)])
    finally:
        cv2.setNumThreads(threads)
    assert results[0] == results[1]


def test_sizes_that_are_not_square_and_small(rng):
    hq = rng.integers(0, 256, (64, 36, 3), dtype=np.uint8)
    before = hq.copy()
    for seed in range(20):
        assert build("realesrgan", scale=4)(hq, seed=seed).lq.shape == (16, 9, 3)
    np.testing.assert_array_equal(hq, before)


def test_the_record_names_what_was_drawn(photo):
    records = [build("realesrgan")(photo, seed=seed).record for seed in range(30)]
    steps = [step for record in records for step in record["steps"]]
    assert {step["op"] for step in steps} == {"blur", "rescale", "resize", "gaussian_noise", "poisson_noise", "jpeg"}
    kernel = next(s["kernel"] for s in steps if s["op"] == "blur" and s["kernel"]["kind"] == "gaussian")
    assert set(kernel) == {"kind", "size", "sigma_x", "sigma_y", "theta"}
    assert all(30 <= step["quality"] <= 95 for step in steps if step["op"] == "jpeg")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("blurry", "degradation.name is 'blurry'; valid names are realesrgan"),
        ({"name": "realesrgan", "preset": "hard"}, "degradation.preset is 'hard'; valid presets are training, testing"),
        (
            {"name": "realesrgan", "jpeg": 3},
            "degradation.jpeg is not a known key; valid keys are: final_sinc",
        ),
        (
            {"name": "realesrgan", "first": {"blur": {"sigma": [1, 2]}}},
            "degradation.first.blur.sigma is not a known key; valid keys are: generalized_beta_range, kind_prob",
        ),
        (
            {"name": "realesrgan", "first": {"jpeg_quality_range": [95, 30]}},
            r"degradation.first.jpeg_quality_range is \[95, 30\]: upside down; write the lower end first: \[30, 95\]",
        ),
        (
            {"name": "realesrgan", "second": {"resize_prob": {"up": 0.5, "down": 0.6}}},
            "degradation.second.resize_prob is .*: the probabilities sum to 1.1; they must sum to 1",
        ),
        (
            {"name": "realesrgan", "second_order_prob": 1.5},
            "degradation.second_order_prob is 1.5: Input should be less than or equal to 1",
        ),
        (
            {"name": "realesrgan", "first": {"gaussian_sigma_range": [float("nan"), 3]}},
            r"degradation.first.gaussian_sigma_range.0 is nan: Input should be a finite number",
        ),
        (
            {"name": "realesrgan", "first": {"resize_prob": {"up": float("nan"), "down": 1.0}}},
            "degradation.first.resize_prob.up is nan: Input should be a finite number",
        ),
        (
            {"name": "realesrgan", "first": {"blur": {"size_range": [4, 20]}}},
            "degradation.first.blur.size_range is .*: kernel sizes must be odd",
        ),
    ],
)
def test_a_wrong_section_is_named(section, message):
    with pytest.raises(ValueError, match=message):
        build(section, scale=4)


def test_a_wrong_scale_is_named():
    with pytest.raises(ValueError, match="scale is 3; valid scales are 1, 2, 4, 8"):
        build("realesrgan", scale=3)


@pytest.mark.parametrize(
    ("hq", "message"),
    [
        (np.zeros((64, 64, 3)), r"hq is float64; give uint8 in 0..255: \(image \* 255\)"),
        (np.full((64, 64, 3), np.nan, np.float32), "it also holds NaN or infinity"),
        (np.zeros((64, 64), np.uint8), "hq is gray"),
        (np.zeros((64, 64, 4), np.uint8), r"hq has an alpha channel .* drop it: hq\[..., :3\]"),
        (np.zeros((64, 64, 3), np.uint16), "hq is uint16; .*16-bit"),
        (np.zeros((0, 64, 3), np.uint8), "hq is empty"),
        (np.zeros((3, 64, 64), np.uint8), "hq has shape .*; give RGB with the channels last"),
        (np.zeros((2, 64, 64, 3), np.uint8), "one image at a time"),
        (np.zeros((12, 64, 3), np.uint8), "hq is 64x12 pixels; the shorter side needs at least 32"),
        (np.zeros((65, 66, 3), np.uint8), "hq is 66x65 pixels, not a multiple of the scale 4; crop it to 64x64"),
        ([[1, 2, 3]], "hq is a list; give a numpy array"),
    ],
)
def test_a_wrong_image_is_named(hq, message):
    with pytest.raises(ValueError, match=message):
        build("realesrgan", scale=4)(hq, seed=0)


def test_a_record_that_does_not_fit_is_named(photo):
    degrade = build("realesrgan", scale=4)
    record = degrade(photo, seed=0).record
    with pytest.raises(ValueError, match="the record is of an image of 256x256 pixels, hq has 128x64"):
        degrade.replay(photo[:64, :128], record)
    with pytest.raises(ValueError, match="the record is of 'realesrgan' x4, this is 'bicubic' x4"):
        build("bicubic", scale=4).replay(photo, record)
    with pytest.raises(ValueError, match=r"record\.version is 99"):
        degrade.replay(photo, record | {"version": 99})
    with pytest.raises(ValueError, match=r"record\.steps is missing"):
        degrade.replay(photo, {k: v for k, v in record.items() if k != "steps"})
