"""The PNGs of shards: lossless, readable by everybody, the same bytes everywhere."""

import hashlib
import io
import zlib

import numpy as np
import pytest
import skimage.data
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
    named = {"png: up filter, zlib run lengths": "55ee6c770619954080e6b251564af5faf2cb269f1138459b4a70dc1344faf1e0"}
    assert hashlib.sha256(encode_png(image)).hexdigest() == named[CODEC]


@pytest.mark.parametrize("name", ["chelsea", "camera", "page"])
@pytest.mark.parametrize("step", [1, 64, 255])
def test_bytes_are_the_same_by_another_implementation(name, step):
    """Python's own zlib instead of zlib-ng: nothing is left to the taste of a library, its version or a processor."""
    image = getattr(skimage.data, name)()[:123, :77] // step * step
    ours = encode_png(image)
    rows = zlib.decompress(deflated(ours))
    other = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    assert other.compress(rows) + other.flush() == deflated(ours)


def deflated(png: bytes) -> bytes:
    """The contents of the IDAT chunk, which follows signature (8 bytes) and IHDR (25)."""
    assert png[37:41] == b"IDAT"
    return png[41 : 41 + int.from_bytes(png[33:37], "big")]


@pytest.mark.parametrize("cut", [0, 20, 100, -20])
def test_damaged_bytes_are_refused(cut):
    with pytest.raises(ValueError, match="not a readable PNG"):
        decode_png(encode_png(NOISE)[:cut])
