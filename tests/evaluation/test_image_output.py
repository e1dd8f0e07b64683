"""Formats of results: what they hold, and what is said where they cannot."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from evaluation import image_output
from evaluation.image_output import write_image
from resshift.image_files import LoadedImage, decode


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_tiffs_of_any_kind_are_read_back(dtype, gray, alpha, tmp_path, rng):
    rgb = rng.integers(0, np.iinfo(dtype).max, (300, 270, 1 if gray else 3), dtype, endpoint=True)
    rgb = np.broadcast_to(rgb, (300, 270, 3))
    like = LoadedImage(rgb, rgb[..., 1] if alpha else None, gray)
    write_image(tmp_path / "a.tif", [rgb[:100], rgb[100:]], (300, 270), like, "tiff")
    found = decode((tmp_path / "a.tif").read_bytes())
    np.testing.assert_array_equal(found.rgb, rgb)
    assert (found.alpha is not None, found.is_gray) == (alpha, gray)
    if alpha:
        np.testing.assert_array_equal(found.alpha, rgb[..., 1])


@pytest.mark.parametrize(("most", "expected"), [(300 * 270 * 3, True), (300 * 270 * 3 + 1, False)])
def test_what_a_tiff_cannot_hold_goes_into_a_bigtiff(most, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(image_output, "CLASSIC_TIFF_BYTES", most)
    rgb = np.zeros((300, 270, 3), np.uint8)
    write_image(tmp_path / "a.tif", [rgb], (300, 270), LoadedImage(rgb), "tiff")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff == expected
    np.testing.assert_array_equal(decode((tmp_path / "a.tif").read_bytes()).rgb, rgb)


@pytest.mark.parametrize(("kind", "limit"), [("jpeg", 65500), ("webp", 16383)])
def test_what_a_format_cannot_hold_is_said_before_the_work(kind, limit, tmp_path):
    like = LoadedImage(np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(ValueError, match=f"{limit + 1}x10 pixels do not go into a {kind} file, .* use --format png"):
        write_image(tmp_path / "image", iter(()), (10, limit + 1), like, kind)
    row = np.zeros((10, limit, 3), np.uint8)
    write_image(tmp_path / "image", [row], (10, limit), like, kind)
    assert Image.open(tmp_path / "image").size == (limit, 10)
