from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degradations.resize import RESIZE_MODES, matlab_bicubic, rescale, resize

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "bicubic_matlab.npz")


@pytest.mark.parametrize("index", range(4))
def test_matlab_bicubic_agrees_with_the_golden_arrays(index):
    lq = matlab_bicubic(GOLDEN[f"hq{index}"], float(GOLDEN[f"scale{index}"])) / 255
    np.testing.assert_allclose(lq, GOLDEN[f"lq{index}"], rtol=0, atol=1e-4)


def naive_area(image, height, width):
    """Adaptive average pooling, written from its definition in float64."""
    out = np.empty((height, width, image.shape[2]))
    for i in range(height):
        top, bottom = i * image.shape[0] // height, -(-(i + 1) * image.shape[0] // height)
        for j in range(width):
            left, right = j * image.shape[1] // width, -(-(j + 1) * image.shape[1] // width)
            out[i, j] = image[top:bottom, left:right].mean(axis=(0, 1), dtype=np.float64)
    return out


def naive_interpolation(image, height, width, step, mode):
    """Separable interpolation at (i + 0.5)·step - 0.5 with clamped indices, float64."""

    def weights(size, target):
        matrix = np.zeros((target, size))
        for i in range(target):
            x = (i + 0.5) * step - 0.5
            if mode == "bilinear":
                x = max(x, 0.0)
            taps = (0, 1) if mode == "bilinear" else (-1, 0, 1, 2)
            for tap in taps:
                d = abs(x - np.floor(x) - tap)
                if mode == "bilinear":
                    w = max(0.0, 1 - d)
                elif d <= 1:
                    w = (1.25 * d - 2.25) * d * d + 1
                else:
                    w = ((-0.75 * d + 3.75) * d - 6) * d + 3
                matrix[i, min(max(int(np.floor(x)) + tap, 0), size - 1)] += w
        return matrix

    return np.einsum("ih,hwc,jw->ijc", weights(image.shape[0], height), image, weights(image.shape[1], width))


@pytest.mark.parametrize(("height", "width"), [(7, 9), (16, 24), (40, 31), (5, 60)])
def test_area_is_adaptive_average_pooling(rng, height, width):
    image = rng.uniform(0, 255, (23, 31, 3)).astype(np.float32)
    np.testing.assert_allclose(resize(image, height, width, "area"), naive_area(image, height, width), atol=1e-3)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [0.21, 0.5, 0.77, 1.0, 1.43])
def test_rescale_samples_at_exactly_one_over_factor(rng, mode, factor):
    image = rng.uniform(0, 255, (37, 29, 3)).astype(np.float32)
    out = rescale(image, factor, mode)
    expected = naive_interpolation(image, int(37 * factor), int(29 * factor), 1 / factor, mode)
    np.testing.assert_allclose(out, expected, atol=2e-3)


@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mode=st.sampled_from(RESIZE_MODES),
    value=st.integers(0, 255),
)
@settings(max_examples=60, deadline=None)
def test_resize_keeps_a_flat_image_and_its_input(height, width, target, mode, value):
    image = np.full((height, width, 3), value, dtype=np.float32)
    before = image.copy()
    out = resize(image, *target, mode)
    assert out.shape == (*target, 3)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, value, atol=1e-3)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_neutral_parameters_change_nothing(rng, mode):
    image = rng.uniform(0, 255, (12, 13, 3)).astype(np.float32)
    for out in (resize(image, 12, 13, mode), rescale(image, 1.0, mode)):
        np.testing.assert_array_equal(out, image)
        assert out is not image
    np.testing.assert_allclose(matlab_bicubic(image, 1.0), image, atol=1e-3)


def test_impossible_targets_are_named(rng):
    image = np.zeros((4, 4, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="target size is 0x4"):
        resize(image, 0, 4, "area")
    with pytest.raises(ValueError, match="target size is 0x0"):
        rescale(image, 0.1, "bilinear")
    with pytest.raises(ValueError, match="scale is 0"):
        matlab_bicubic(image, 0)
