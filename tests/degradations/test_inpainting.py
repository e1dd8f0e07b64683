import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from degradations import build
from tests.degradations.lq_statistics import ks_distances

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "masks_inpainting.npz")


def test_masks_are_distributed_as_the_originals():
    degrade = build("inpainting")
    hq = np.full((256, 256, 3), 200, np.uint8)
    ours = []
    for variant in range(3000):
        mask = degrade(hq, seed=1, variant=variant).mask
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        ours.append([mask.mean(), cv2.connectedComponents(mask)[0] - 1, border.mean()])
    distances = ks_distances(np.array(ours), GOLDEN["stats"])
    assert max(distances) <= 0.06, distances


def test_one_is_missing_and_the_lq_black_there(photo):
    pair = build("inpainting")(photo, seed=3)
    assert pair.mask.shape == photo.shape[:2]
    assert pair.mask.dtype == np.uint8
    assert set(np.unique(pair.mask)) == {0, 1}
    assert (pair.lq[pair.mask == 1] == 0).all()
    np.testing.assert_array_equal(pair.lq[pair.mask == 0], photo[pair.mask == 0])
    np.testing.assert_array_equal(pair.hq, photo)


@pytest.mark.parametrize("kind", ["irregular", "box", "outpainting"])
@pytest.mark.parametrize("size", [(8, 8), (40, 24), (256, 512)])
def test_every_kind_replays_at_any_size(rng, kind, size):
    hq = rng.integers(1, 256, (*size, 3), dtype=np.uint8)
    degrade = build({"name": "inpainting", "kind_prob": {kind: 1}})
    for seed in range(10):
        pair = degrade(hq, seed=seed)
        again = degrade.replay(hq, json.loads(json.dumps(pair.record)))
        np.testing.assert_array_equal(again.mask, pair.mask)
        np.testing.assert_array_equal(again.lq, pair.lq)
        assert pair.mask.any()


def test_wrong_sections_are_named():
    with pytest.raises(ValueError, match=r"degradation\.kind_prob is .*: the probabilities sum to 0\.5"):
        build({"name": "inpainting", "kind_prob": {"box": 0.5}})
    with pytest.raises(ValueError, match=r"outpainting\.fraction_range is .*: fractions lie in 0\.\.1"):
        build({"name": "inpainting", "outpainting": {"fraction_range": [0.5, 2]}})
