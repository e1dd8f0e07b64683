"""Image files of every kind become upright uint8 RGB, or a reject with a reason."""

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.decode import Rejected, decode_rgb

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_rgb_is_unchanged():
    np.testing.assert_array_equal(decode_rgb(encoded(Image.fromarray(RGB), "PNG")), RGB)


def test_gray_becomes_three_equal_channels():
    gray = RGB[..., 0]
    np.testing.assert_array_equal(decode_rgb(encoded(Image.fromarray(gray), "PNG")), np.dstack([gray] * 3))


def test_sixteen_bit_is_scaled_not_clipped():
    gray = np.array([[0, 257 * 100], [65535, 300]], np.uint16)
    expected = np.array([[0, 100], [255, 1]], np.uint8)
    np.testing.assert_array_equal(decode_rgb(encoded(Image.fromarray(gray), "PNG"))[..., 0], expected)


def test_transparency_is_laid_on_white():
    rgba = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    assert (decode_rgb(encoded(Image.fromarray(rgba), "PNG")) == 255).all()


@pytest.mark.parametrize(
    ("mode", "kind"), [("P", "PNG"), ("CMYK", "JPEG"), ("RGB", "WEBP"), ("RGB", "BMP"), ("L", "TIFF")]
)
def test_other_modes_and_containers(mode, kind):
    assert decode_rgb(encoded(Image.fromarray(RGB).convert(mode), kind)).shape == RGB.shape


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view
    decoded = decode_rgb(encoded(Image.fromarray(RGB), "PNG", exif=exif))
    np.testing.assert_array_equal(decoded, np.rot90(RGB, -1))


@pytest.mark.parametrize("data", [b"", b"no image at all", encoded(Image.fromarray(RGB), "PNG")[:45]])
def test_damaged_files_are_rejected_with_a_reason(data):
    with pytest.raises(Rejected) as raised:
        decode_rgb(data)
    assert raised.value.reason == "unreadable"


def test_truncated_jpeg_is_rejected():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(Rejected):
        decode_rgb(encoded(Image.fromarray(noise), "JPEG")[:-400])
