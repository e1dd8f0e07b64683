"""Image files of every kind become upright uint8 RGB, or a reject with a reason."""

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from pipelines import decode
from pipelines.decode import Rejected, decode_rgb

RGB = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
RGB16 = np.random.Generator(np.random.SFC64(0)).integers(0, 65536, (8, 12, 3), dtype=np.uint16)


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo(photos) -> Image.Image:
    return Image.open(photos / "coffee.png").crop((10, 20, 171, 143))  # odd sides: half-covered blocks of chroma


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_lossless_kinds_are_unchanged(kind, options):
    np.testing.assert_array_equal(decode_rgb(encoded(RGB, kind, **options)), RGB)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_what_pillow_makes_of_it(photo, subsampling, progressive):
    data = encoded(photo, "JPEG", quality=80, subsampling=subsampling, progressive=progressive)
    np.testing.assert_array_equal(decode_rgb(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_colours(photo, mode):
    data = encoded(photo.convert(mode), "JPEG", quality=95)
    decoded = decode_rgb(data)
    np.testing.assert_array_equal(decoded, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    expected = np.asarray(photo.convert(mode).convert("RGB"), np.int32)
    assert np.abs(decoded - expected).mean() < 4  # not inverted, as CMYK often is


def test_inverted_cmyk_of_adobe(photo):
    """Adobe stores CMYK inverted and says so in a marker; taken literally, the photo would be a negative."""
    data = encoded(photo.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(decode_rgb(data).mean((0, 1)) - np.asarray(photo).mean((0, 1))).max() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(photo, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_rgb(data), np.asarray(upright.convert("RGB")))
    assert decode_rgb(data).shape[:2] == ((123, 161) if orientation < 5 else (161, 123))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_tiff_is_turned_once(orientation):
    buffer = io.BytesIO()
    deep = RGB.astype(np.uint16) * 257
    tifffile.imwrite(buffer, deep, photometric="rgb", extratags=[(0x0112, 3, 1, orientation, True)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_rgb(buffer.getvalue()), decode_rgb(encoded(RGB, "PNG", exif=exif)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_gray_becomes_three_equal_channels(kind):
    gray = RGB[..., 0]
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode_rgb(encoded(gray, kind, **options)), np.dstack([gray] * 3))


def test_one_bit_and_palettes(photo):
    np.testing.assert_array_equal(
        decode_rgb(encoded(Image.fromarray(RGB[..., 0] > 99), "PNG"))[..., 1] > 0, RGB[..., 0] > 99
    )
    palette = photo.quantize(16)
    for kind in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(decode_rgb(encoded(palette, kind)), np.asarray(palette.convert("RGB")))


def test_transparency_is_laid_on_white():
    half = np.dstack([RGB, np.full(RGB.shape[:2], 51, np.uint8)])  # a fifth of the colour, four fifths of white
    expected = np.rint(RGB * 0.2 + 255 * 0.8)
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert np.abs(decode_rgb(encoded(half, kind, **options)) - expected).max() <= 1
    gray = np.dstack([RGB[..., 0], np.zeros(RGB.shape[:2], np.uint8)])
    assert (decode_rgb(encoded(Image.fromarray(gray, "LA"), "PNG")) == 255).all()
    palette = Image.fromarray(RGB).quantize(4)
    palette.info["transparency"] = 0
    see_through = np.asarray(palette) == 0
    assert (decode_rgb(encoded(palette, "PNG", transparency=0))[see_through] == 255).all()


def png16(samples: np.ndarray) -> bytes:
    return cv2.imencode(".png", samples[..., ::-1] if samples.ndim == 3 and samples.shape[2] == 3 else samples)[
        1
    ].tobytes()


def test_sixteen_bits_are_rounded_not_cut():
    expected = np.rint(RGB16 / 257)
    np.testing.assert_array_equal(decode_rgb(png16(RGB16)), expected)
    np.testing.assert_array_equal(decode_rgb(tiff(RGB16, photometric="rgb")), expected)
    np.testing.assert_array_equal(decode_rgb(tiff(RGB16, photometric="rgb", compression="deflate")), expected)
    for data in (png16(RGB16[..., 0]), tiff(RGB16[..., 0])):
        np.testing.assert_array_equal(decode_rgb(data), np.dstack([expected[..., 0]] * 3))
    assert (expected != RGB16 >> 8).any()  # what dropping the lower byte would give


def test_sixteen_bits_with_alpha():
    alpha = np.full((8, 12), 65535 // 5, np.uint16)
    data = png16(np.dstack([RGB16[..., ::-1], alpha]))
    assert np.abs(decode_rgb(data) - (RGB16 / 257 * 0.2 + 255 * 0.8)).max() <= 0.51


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", "unreadable", "no image of a known kind"),
        (b"no image at all", "unreadable", "no image of a known kind"),
        (encoded(RGB, "PNG")[:60], "unreadable", ""),
        (encoded(RGB, "WEBP")[:60], "unreadable", ""),
        (encoded(RGB, "BMP")[:100], "unreadable", "truncated"),
        (tiff(RGB)[:-50], "unreadable", ""),
        (tiff(RGB)[:6], "unreadable", "damaged TIFF"),
        (png16(RGB16)[:-60], "unreadable", ""),
        (tiff(RGB16[..., 0].astype(np.int16)), "unreadable", "16-bit samples that OpenCV cannot decode"),
        (
            tiff(np.zeros((8, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig"),
            "wrong_channels",
            "TIFF with 5 channels of uint8",
        ),
        (
            tiff(np.zeros((8, 8, 2), np.uint8), photometric="minisblack", planarconfig="contig"),
            "wrong_channels",
            "mode L with 2 channels",
        ),
        (tiff(np.zeros((8, 8), np.float32)), "wrong_channels", "TIFF of mode F"),
        (tiff(np.zeros((8, 8, 3), np.float32)), "wrong_channels", "3 channels of float32"),
        (tiff(np.zeros((8, 8), np.int32)), "wrong_channels", "TIFF of mode I"),
        (tiff(np.zeros((8, 8, 3), np.uint8), photometric="cielab"), "wrong_channels", "mode LAB"),
    ],
)
def test_what_cannot_be_used_is_rejected_with_a_reason(data, reason, detail):
    with pytest.raises(Rejected) as raised:
        decode_rgb(data)
    assert raised.value.reason == reason
    assert detail in raised.value.detail


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("left", [0.98, 0.5, 0.1])
def test_truncated_jpegs_are_rejected(photo, mode, left):
    data = encoded(photo.convert(mode), "JPEG")
    with pytest.raises(Rejected, match="unreadable"):
        decode_rgb(data[: int(left * len(data))])


def test_a_jpeg_with_damage_inside_is_rejected(photo):
    data = bytearray(encoded(photo, "JPEG"))
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    with pytest.raises(Rejected, match="unreadable"):
        decode_rgb(bytes(data))


@pytest.mark.filterwarnings("ignore")
def test_a_tiff_whose_tags_are_of_wrong_types_is_no_crash():
    """Pillow raises TypeError, OverflowError and more for it, OpenCV its own error."""
    data = tiff(RGB16)
    (folder,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, folder)
    rejected = 0
    for place in range(folder + 4, folder + 4 + 12 * count, 12):
        for kind in (1, 2, 5, 7, 12, 16):  # byte, text, fraction, bytes, float, whole number of 64 bits
            try:
                decode_rgb(data[:place] + struct.pack("<H", kind) + data[place + 2 :])
            except Rejected:
                rejected += 1
    assert rejected > 20


@pytest.mark.parametrize("kind", [TypeError("Missing"), struct.error(), OverflowError(), cv2.error()])
def test_errors_that_decoders_are_known_to_raise(kind, monkeypatch):
    def fail(*_):
        raise kind

    monkeypatch.setattr(decode, "_decode", fail)
    with pytest.raises(Rejected, match="unreadable"):
        decode_rgb(encoded(RGB, "PNG"))


def test_a_file_that_claims_to_be_huge_is_rejected_unread():
    header = struct.pack(">II", 30_000, 30_000)
    data = encoded(RGB, "PNG")
    with pytest.raises(Rejected) as raised:
        decode_rgb(data[:16] + header + data[24:29] + data[29:])
    assert raised.value.reason in ("too_large", "unreadable")
    with pytest.raises(Rejected, match="too_large"):
        decode_rgb(encoded(Image.new("1", (20_000, 10_000)), "PNG"))


def test_upright_covers_every_orientation_but_the_first():
    assert sorted(decode.UPRIGHT) == list(range(2, 9))
