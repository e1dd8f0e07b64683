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


def test_a_mask_says_what_is_unknown_or_why_it_cannot():
    strokes = np.full((4, 6, 2), 255, np.uint8)
    strokes[..., 1] = 0  # white, but nothing of it painted
    strokes[1:3, 2:4, 1] = 255
    painted = np.zeros((4, 6), bool)
    painted[1:3, 2:4] = True
    for pixels in (strokes, painted.astype(np.uint8) * 255, painted):
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        np.testing.assert_array_equal(decode_mask(data.getvalue()), painted)
    data = io.BytesIO()
    Image.fromarray(painted.astype(np.uint8)).save(data, "PNG")
    with pytest.raises(ValueError, match="holds 0 and 1 only; unknown pixels are white: multiply them by 255"):
        decode_mask(data.getvalue())


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


@pytest.mark.parametrize("maxval", [256, 1023, 4095, 65534])
@pytest.mark.parametrize(("magic", "channels"), [("P5", 1), ("P6", 3), ("P2", 1), ("P3", 3)])
def test_samples_of_pnm_files_are_scaled_by_what_stands_for_white(maxval, magic, channels, rng):
    stored = rng.integers(0, maxval, (6, 5, channels), endpoint=True)
    plain = " ".join(map(str, stored.ravel())).encode() + b"\n"
    body = stored.astype(">u2").tobytes() if magic in ("P5", "P6") else plain
    read = decode(f"{magic}\n5 6\n{maxval}\n".encode() + body)
    assert read.is_gray == (channels == 1)
    expected = np.broadcast_to(np.rint(stored * (65535 / maxval)).astype(np.uint16), (6, 5, 3))
    np.testing.assert_array_equal(read.rgb, expected)


def tiff(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    return buffer.getvalue()


def test_tags_of_a_deep_tiff_say_what_its_samples_mean(rng):
    photo = random_image(rng, np.uint16, alpha=True)
    white = decode(tiff(photo.rgb[..., 0], photometric="miniswhite"))
    np.testing.assert_array_equal(white.rgb, np.repeat(65535 - photo.rgb[..., :1], 3, axis=2))
    alpha = np.maximum(photo.alpha, 6000)
    alpha[0, 0] = 0
    multiplied = np.rint(photo.rgb * (alpha[..., None] / 65535)).astype(np.uint16)
    read = decode(tiff(np.dstack([multiplied, alpha]), photometric="rgb", extrasamples=["assocalpha"]))
    np.testing.assert_array_equal(read.alpha, alpha)
    np.testing.assert_allclose(read.rgb[1:].astype(int), photo.rgb[1:], atol=6)
    assert read.rgb[0, 0].tolist() == [0, 0, 0]
    kept = decode(tiff(np.dstack([photo.rgb, alpha]), photometric="rgb", extrasamples=["unassalpha"]))
    np.testing.assert_array_equal(kept.rgb, photo.rgb)


def test_deep_tiffs_of_other_layouts_are_refused_by_name(rng):
    rgb = random_image(rng, np.uint16).rgb
    planes = tiff(np.moveaxis(rgb, 2, 0), photometric="rgb", planarconfig="separate")
    with pytest.raises(ValueError, match="holds 16-bit colours plane by plane, which is not supported; store them"):
        decode(planes)
    with pytest.raises(ValueError, match="is 16-bit CMYK, which is not supported; convert it to RGB"):
        decode(tiff(np.dstack([rgb, rgb[..., :1]]), photometric="separated"))


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
