"""Blur, noise and JPEG: shape, dtype, range, no mutation, identity at neutral parameters, and what they are for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate
from scipy.stats import kstest
from scipy.stats import poisson as poisson_distribution

from degradations import blur, jpeg, kernels, noise
from degradations.arrays import to_uint8
from degradations.compiled import quantize
from degradations.poisson import alias_table, first_counts

images = st.builds(
    lambda height, width, seed: np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32),
    st.integers(8, 40),
    st.integers(8, 40),
    st.integers(0, 2**32 - 1),
)
sizes = st.integers(0, 10).map(lambda k: 2 * k + 1)
sigmas = st.floats(0.2, 3.0)
any_kernel = st.one_of(
    st.builds(kernels.gaussian, sizes, sigmas, sigmas, st.floats(-3.2, 3.2)),
    st.builds(kernels.generalized_gaussian, sizes, sigmas, sigmas, st.floats(-3.2, 3.2), beta=st.floats(0.5, 4)),
    st.builds(kernels.plateau, sizes, sigmas, sigmas, st.floats(-3.2, 3.2), beta=st.floats(0.5, 2)),
    st.builds(kernels.sinc, sizes, st.floats(0.6, np.pi)),
    st.builds(kernels.disk, sizes, st.floats(0.1, 10)),
    st.builds(kernels.gaussian, st.just(41), st.floats(3, 15), st.floats(3, 15), st.floats(-3.2, 3.2)),
)


@given(image=images, kernel=any_kernel)
@settings(max_examples=60, deadline=None)
def test_filter2d_is_direct_correlation_within_tolerance(image, kernel):
    before = image.copy()
    out = blur.filter2d(image, kernel)
    expected = np.stack([correlate(image[..., c].astype(np.float64), kernel, mode="mirror") for c in range(3)], -1)
    assert out.shape == image.shape
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=0, atol=0.26)
    np.testing.assert_array_equal(image, before)


def test_filter2d_with_a_pulse_is_the_identity(rng):
    pulse = np.zeros((21, 21))
    pulse[10, 10] = 1
    image = rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(blur.filter2d(image, pulse), image.astype(np.float32))


@given(image=images, amount=st.floats(0, 40), gray=st.booleans(), seed=st.integers(0, 2**53 - 1), poisson=st.booleans())
@settings(max_examples=60, deadline=None)
def test_noise_keeps_shape_type_range_and_input(image, amount, gray, seed, poisson):
    add = noise.poisson_noise if poisson else noise.gaussian_noise
    before = image.copy()
    out = add(image, amount, seed, gray=gray)
    assert out.shape == image.shape
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 255
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(add(image, amount, seed, gray=gray), out)  # the seed is all there is
    np.testing.assert_array_equal(add(image, 0.0, seed, gray=gray), image)
    if gray:  # where nothing clips, the three channels moved alike
        change = (out - image)[((out > 0) & (out < 255)).all(axis=2)]
        np.testing.assert_allclose(change, change[:, :1].repeat(3, 1), atol=1e-3)


def test_gaussian_noise_is_gaussian_with_the_sigma_asked_for():
    flat = np.full((200, 200, 3), 128, dtype=np.float32)
    change = noise.gaussian_noise(flat, 12.0, seed=5).ravel() - 128
    assert kstest(change, "norm", args=(0, 12.0)).pvalue > 1e-3


def test_poisson_noise_has_the_variance_of_photon_counts(photo):
    """256 gray levels -> 256 photons at white: a pixel of level v has variance v·255/256 gray levels²."""
    steps = np.arange(256, dtype=np.float32).repeat(3 * 400).reshape(256, 400, 3)
    out = noise.poisson_noise(steps, 1.0, seed=3)
    for level in (20, 100, 180):
        values = out[level]
        assert values.mean() == pytest.approx(level, abs=4 * np.sqrt(level / values.size))
        assert values.var() == pytest.approx(level * 255 / 256, rel=0.15)


def test_photons_at_white_is_the_next_power_of_two():
    for distinct, photons in ((1, 1), (2, 2), (3, 4), (129, 256), (256, 256)):
        assert noise.photons_at_white(distinct) == photons
    levels = np.empty(6, np.uint8)
    assert quantize(np.array([-3, 0.5, 1.5, 2.4, 300, 255], dtype=np.float32), levels) == 3
    assert levels.tolist() == [0, 0, 2, 2, 255, 255]


@given(image=images, quality=st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_jpeg_keeps_shape_type_range_and_input(image, quality):
    before = image.copy()
    out = jpeg.jpeg(image, quality)
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_jpeg_is_420_and_gets_worse_with_lower_quality(photo):
    errors = [np.abs(jpeg.jpeg(photo, quality) - photo.astype(float)).mean() for quality in (95, 60, 30, 5)]
    assert errors == sorted(errors)
    encoded = jpeg.jpeg_bytes(photo, 80)
    frame = encoded.index(b"\xff\xc0")
    assert encoded[frame + 11] == 0x22  # luma sampled 2x2 per chroma sample
    assert encoded[frame + 14] == encoded[frame + 17] == 0x11
    with pytest.raises(ValueError, match="jpeg quality is 0"):
        jpeg.jpeg(photo, 0)


@pytest.mark.parametrize("photons", [1, 16, 256])
def test_thealias_table_holds_the_poisson_probabilities(photons):
    table = alias_table(photons).reshape(256, 256)
    threshold, alias = (table >> 8) / 2**24, table & 255
    drawn = threshold / 256
    for slot in range(256):
        np.add.at(drawn, (np.arange(256), alias[:, slot]), (1 - threshold[:, slot]) / 256)
    counts = first_counts(photons)[:, None] + np.arange(256)
    exact = poisson_distribution.pmf(counts, np.arange(256)[:, None] * photons / 255)
    np.testing.assert_allclose(drawn, exact, atol=1e-7)


@given(values=st.lists(st.floats(-400, 700, width=32), min_size=3, max_size=90))
@settings(max_examples=60, deadline=None)
def test_to_uint8_rounds_half_to_even_and_clips(values):
    image = np.array(values[: len(values) // 3 * 3], dtype=np.float32).reshape(-1, 1, 3)
    np.testing.assert_array_equal(to_uint8(image), np.clip(np.rint(image), 0, 255).astype(np.uint8))
    halves = np.arange(256, dtype=np.float32).repeat(3).reshape(-1, 1, 3) - 0.5
    np.testing.assert_array_equal(to_uint8(halves), np.clip(np.rint(halves), 0, 255).astype(np.uint8))
