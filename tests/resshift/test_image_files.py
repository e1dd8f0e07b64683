"""Kinds of image files: what is read is what was written, and what is written is of the kind that was read."""

import io

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from resshift.image_files import LoadedImage, decode, decode_mask, decode_rgb, encode_png, write_png


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def random_image(rng, dtype, gray=False, alpha=False, size=(40, 23)) -> LoadedImage:
    top = np.iinfo(dtype).max
    rgb = rng.integers(0, top, (*size, 3), dtype=dtype, endpoint=True)
    if gray:
        rgb = np.repeat(rgb[..., :1], 3, axis=2)
    return LoadedImage(rgb, rng.integers(0, top, size, dtype=dtype, endpoint=True) if alpha else None, gray)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_png_of_any_kind_round_trips(dtype, gray, alpha, rng):
    image = random_image(rng, dtype, gray, alpha)
    data = encode_png(image.rgb, like=image)
    read = decode(data)
    np.testing.assert_array_equal(read.rgb, image.rgb)
    assert read.rgb.dtype == dtype
    assert read.is_gray == gray
    assert (read.alpha is None) == (not alpha)
    if alpha:
        np.testing.assert_array_equal(read.alpha, image.alpha)
    # another decoder agrees
    other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    colour = other if other.ndim == 2 else other[..., 0 if gray else slice(2, None, -1)]
    np.testing.assert_array_equal(colour, image.rgb[..., 0] if gray else image.rgb)


def test_rows_may_come_in_any_pieces(rng):
    image = random_image(rng, np.uint8, alpha=True, size=(300, 7))
    rows = np.repeat(np.repeat(image.rgb, 2, axis=0), 2, axis=1)
    whole = encode_png(rows, like=image)
    pieces = io.BytesIO()
    write_png(pieces, (rows[start : start + 37] for start in range(0, len(rows), 37)), rows.shape[:2], image)
    first, second = (decode(data) for data in (whole, pieces.getvalue()))
    np.testing.assert_array_equal(first.rgb, second.rgb)
    np.testing.assert_array_equal(first.alpha, second.alpha)


def test_a_file_that_lacks_rows_is_an_error(rng):
    image = random_image(rng, np.uint8)
    with pytest.raises(ValueError, match="3 rows were not written"):
        write_png(io.BytesIO(), [image.rgb[3:]], image.rgb.shape[:2], image)
    with pytest.raises(ValueError, match="give at most 40 of"):
        write_png(io.BytesIO(), [image.rgb.astype(np.uint16)], image.rgb.shape[:2], image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_every_exif_orientation_is_turned_upright(orientation, deep, rng):
    stored = random_image(rng, np.uint8, size=(5, 8)).rgb
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(stored), exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    if deep:
        png = cv2.imencode(".png", stored[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
        chunk = data[data.index(b"eXIf") - 4 :]
        chunk = chunk[: 12 + int.from_bytes(chunk[:4], "big")]
        data = png[:33] + chunk + png[33:]  # behind the header
        expected = expected.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(data).rgb, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiffs_which_readers_turn_by_themselves_are_turned_once(orientation, dtype, rng):
    stored = random_image(rng, dtype, size=(5, 8)).rgb
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    tifffile.imwrite(buffer, stored, photometric="rgb", extratags=[(0x0112, 3, 1, orientation, True)])
    of_png = io.BytesIO()  # Pillow's own turning of the same samples, which it has for 8 bits alone
    Image.fromarray((stored >> 8 if dtype == np.uint16 else stored).astype(np.uint8)).save(of_png, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(of_png)))
    found = decode(buffer.getvalue()).rgb
    np.testing.assert_array_equal(found >> 8 if dtype == np.uint16 else found, expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(("dtype", "at", "value"), [(np.uint8, 8, 7), (np.uint8, 72, 2), (np.uint16, 32, 16)])
def test_a_tiff_with_damaged_tags_is_damaged(dtype, at, value):
    """Pillow says it with a TypeError and OpenCV with one of its own."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((5, 8, 3), dtype), photometric="rgb", metadata=None)
    data = bytearray(buffer.getvalue())
    data[at] = value
    with pytest.raises(ValueError, match="is damaged or cut off"):
        decode(bytes(data))


def test_sixteen_bits_are_scaled_not_clipped_where_eight_are_asked_for(rng):
    deep = rng.integers(0, 65536, (6, 5), dtype=np.uint16)
    data = cv2.imencode(".png", deep)[1].tobytes()
    np.testing.assert_array_equal(decode(data).rgb[..., 0], deep)
    np.testing.assert_array_equal(decode_rgb(data)[..., 0], np.rint(deep / 257).astype(np.uint8))
    np.testing.assert_array_equal(decode_mask(data), deep >= 127.5 * 257)


@pytest.mark.parametrize("suffix", [".tif", ".ppm"])
def test_sixteen_bit_colour_of_other_formats(suffix, rng):
    deep = rng.integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    data = cv2.imencode(suffix, deep[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(data).rgb, deep)


def test_colour_profile_is_kept_in_the_colour_model_it_describes(rng):
    profile = b"a profile" * 20
    photo = Image.fromarray(random_image(rng, np.uint8).rgb)
    image = decode(saved(photo, icc_profile=profile))
    assert Image.open(io.BytesIO(encode_png(image.rgb, like=image))).info["icc_profile"] == profile
    assert decode(saved(photo.convert("CMYK"), "TIFF", icc_profile=profile)).icc_profile is None


def test_what_cannot_be_used_is_said_in_one_line(rng):
    photo = Image.fromarray(random_image(rng, np.uint8).rgb)
    deep = cv2.imencode(".png", rng.integers(0, 65536, (60, 50, 3), dtype=np.uint16))[1].tobytes()
    huge = saved(Image.new("1", (20_000, 20_000)))
    for data, expected in (
        (b"text", "is not an image"),
        (saved(photo)[:200], "is damaged or cut off"),
        (deep[: len(deep) // 2], "is damaged or cut off"),
        (saved(Image.new("F", (3, 3)), "TIFF"), "32-bit floating-point"),
        (huge, "has more than the 178956970 pixels that are taken"),
    ):
        with pytest.raises(ValueError, match=expected) as caught:
            decode(data)
        assert "\n" not in str(caught.value)
    frames = saved(photo, "GIF", save_all=True, append_images=[photo.rotate(90)])
    assert decode(frames).notes == ("only the first of 2 frames is used",)
