"""The PNGs of shards: lossless, readable by everybody, the same bytes everywhere."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from pipelines.codec import CODEC, decode_png, encode_png

NOISE = np.random.Generator(np.random.SFC64(0)).integers(0, 256, (33, 47, 3), dtype=np.uint8)


@pytest.mark.parametrize("image", [NOISE, NOISE[..., 0], NOISE[::2, ::-1], NOISE[:1, :1], NOISE * 0])
def test_lossless_for_every_reader(image):
    data = encode_png(image)
    np.testing.assert_array_equal(decode_png(data), image)
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(np.asarray(opened), image)


def test_photos_are_about_as_small_as_with_other_writers(photos):
    photo = np.asarray(Image.open(photos / "chelsea.png"))
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG", compress_level=1)
    assert len(encode_png(photo)) < 1.1 * len(buffer.getvalue())


def test_bytes_are_those_of_the_codec_that_plans_name():
    """A change here changes the bytes of every dataset: then CODEC must change, too."""
    rows = np.arange(64, dtype=np.uint8)
    image = np.add.outer(rows * 2, rows)[..., None] + np.array([0, 40, 90], np.uint8)
    named = {"png: up filter, isal 1.9.1 level 1": "d818ca254e3a858e4c93aad29b28329c5e924ed64f584b1dc520e31e623db69b"}
    assert hashlib.sha256(encode_png(image)).hexdigest() == named[CODEC]


@pytest.mark.parametrize("cut", [0, 20, 100, -20])
def test_damaged_bytes_are_refused(cut):
    with pytest.raises(ValueError, match="not a readable PNG"):
        decode_png(encode_png(NOISE)[:cut])
