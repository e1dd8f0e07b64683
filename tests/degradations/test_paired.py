import json

import cv2
import numpy as np
import pytest

from degradations import build
from degradations.paired import crop


@pytest.fixture
def folders(tmp_path, rng):
    for name in ("a", "sub/b"):
        for kind, side in (("hq", 64), ("lq", 16)):
            path = tmp_path / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return tmp_path


def section(root):
    return {"name": "paired", "hq_dir": str(root / "hq"), "lq_dir": str(root / "lq")}


def test_pairs_are_matched_by_name_and_replay(folders):
    pairs = build(section(folders), scale=4)
    assert pairs.names == ["a", "sub/b"]
    pair = pairs.pair("sub/b")
    stored = cv2.imread(str(folders / "lq/sub/b.png"))[..., ::-1]
    np.testing.assert_array_equal(pair.lq, stored)
    again = pairs.replay(pair.hq, json.loads(json.dumps(pair.record)))
    np.testing.assert_array_equal(again.lq, stored)
    part = crop(pair, left=16, top=8, size=32)
    np.testing.assert_array_equal(part.lq, stored[2:10, 4:12])
    assert part.hq.shape == (32, 32, 3)
    with pytest.raises(ValueError, match="the crop 3, 8, 32 is no multiple of the scale 4"):
        crop(pair, left=3, top=8, size=32)
    with pytest.raises(ValueError, match="leaves the image of 64x64 pixels"):
        crop(pair, left=48, top=8, size=32)


def test_folders_that_do_not_match_are_named(folders, tmp_path):
    with pytest.raises(ValueError, match=r"a\.png: HQ is 64x64 pixels, LQ 16x16; at scale 2 the LQ must be 32x32"):
        build(section(folders), scale=2)
    with pytest.raises(ValueError, match="key is 'z'; give the name of a pair, such as 'a'"):
        build(section(folders), scale=4)(np.zeros((64, 64, 3), np.uint8), seed=0, key="z")
    with pytest.raises(ValueError, match=r"degradation\.hq_dir is .*nowhere', which is no folder"):
        build(section(folders) | {"hq_dir": str(tmp_path / "nowhere")}, scale=4)
    (folders / "lq/a.png").rename(folders / "lq/c.png")
    with pytest.raises(ValueError, match="1 images have no LQ of the same name: a; add or remove"):
        build(section(folders), scale=4)
    (folders / "lq/c.png").unlink()
    (folders / "lq/a.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"a\.png is no readable image"):
        build(section(folders), scale=4)
    (folders / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        build(section(folders) | {"lq_dir": str(folders / "empty")}, scale=4)
