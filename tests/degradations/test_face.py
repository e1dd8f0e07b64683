import json
from pathlib import Path

import numpy as np
import pytest

from degradations import build
from tests.degradations.lq_statistics import crops, ks_distances, lq_statistics

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "degradation_face512.npz")


def test_statistics_agree_with_the_original():
    spec = json.loads(str(GOLDEN["spec"]))
    photos = crops(spec, size=512)
    degrade = build({"name": "face", "gray_prob": 0})
    # The reference has 1000 rows; random halves of it lie 0.076 apart (median). With 1500 of ours, chance moves a given
    # statistic by 0.08 once in a thousand; with 1000, once in three hundred.
    pairs = (degrade(photos[i % 2], seed=77, variant=i) for i in range(1500))
    ours = np.array([[*lq_statistics(pair.hq, pair.lq), i % 2] for i, pair in enumerate(pairs)])
    distances = dict(zip(spec["stat_names"], ks_distances(ours, GOLDEN["stats"]), strict=True))
    assert max(distances.values()) <= 0.08, distances


def test_gray_is_drawn_for_hq_and_lq_alike(photo):
    degrade = build({"name": "face", "gray_prob": 1})
    pair = degrade(photo, seed=0)
    for image in (pair.hq, pair.lq):
        assert image.shape == photo.shape
        np.testing.assert_array_equal(image, image[..., :1].repeat(3, axis=2))
    again = degrade.replay(photo, json.loads(json.dumps(pair.record)))
    np.testing.assert_array_equal(again.hq, pair.hq)
    np.testing.assert_array_equal(again.lq, pair.lq)
    grays = [build("face").draw(64, 64, seed).hq_steps != () for seed in range(3000)]
    assert 10 <= sum(grays) <= 60  # one in a hundred


def test_the_lq_is_as_large_as_the_hq():
    with pytest.raises(ValueError, match="scale is 4; the LQ of 'face' is as large as its HQ"):
        build("face", scale=4)
    with pytest.raises(ValueError, match=r"degradation\.kernel_size is 40: a kernel size must be odd"):
        build({"name": "face", "kernel_size": 40})
