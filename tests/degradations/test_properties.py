"""Hypothesis over what test_primitives and test_resize leave: kernels, light, sensor and colour noise, masks.

Shape, dtype, range, no mutation of the input, identity at neutral parameters.
"""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degradations import jpeg, kernels, linear_light, noise
from degradations.bicubic import BicubicSection
from degradations.masks import Box, Stroke, blacked_out, paint_mask
from degradations.normal import standard_normal
from degradations.seeding import generator, random_words
from degradations.steps import Decimate, Gray
from tests.degradations.test_primitives import any_kernel, images

seeds = st.integers(0, 2**53 - 1)
coordinates = st.integers(-20, 60)
strokes = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=5).flatmap(
    lambda points: st.builds(
        Stroke, points=st.just(tuple(points)), widths=st.tuples(*[st.integers(1, 30)] * (len(points) - 1))
    )
)
boxes = st.builds(Box, left=coordinates, top=coordinates, width=st.integers(0, 60), height=st.integers(0, 60))
masks = st.lists(st.one_of(strokes, boxes), max_size=4).map(tuple)
everyday = settings(max_examples=40, deadline=None)


def check_image(out, image, before):
    assert out.shape == image.shape
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 255
    np.testing.assert_array_equal(image, before)


@given(kernel=any_kernel)
@everyday
def test_kernels_are_square_odd_and_sum_to_one(kernel):
    assert kernel.shape[0] == kernel.shape[1]
    assert kernel.shape[0] % 2 == 1
    assert kernel.dtype == np.float64
    assert np.isfinite(kernel).all()
    assert kernel.sum() == pytest.approx(1)


def test_kernels_are_a_pulse_at_neutral_parameters():
    pulse = np.zeros((5, 5))
    pulse[2, 2] = 1
    for kernel in (kernels.gaussian(5, 0.02), kernels.disk(5, 0.1), kernels.plateau(5, 0.01, beta=2)):
        np.testing.assert_allclose(kernel, pulse, atol=1e-7)
    still = kernels.motion([(0.0, 0.0), (0.0, 0.0)])
    assert still[still.shape[0] // 2, still.shape[0] // 2] == 1


@given(points=st.lists(st.tuples(st.floats(-15, 15), st.floats(-15, 15)), min_size=2, max_size=12))
@everyday
def test_motion_is_a_kernel_about_its_mean(points):
    kernel = kernels.motion(points)
    axis = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1)
    middle = np.mean([((ax + bx) / 2, (ay + by) / 2) for (ax, ay), (bx, by) in pairwise(points)], 0)
    assert (kernel.sum(axis=0) * axis).sum() == pytest.approx(middle[0], abs=0.02)
    assert (kernel.sum(axis=1) * axis).sum() == pytest.approx(middle[1], abs=0.02)


@given(image=images)
@everyday
def test_light_there_and_back_is_the_identity(image):
    before = image.copy()
    linear = linear_light.srgb_to_linear(image)
    check_image(linear, image, before)
    kept = linear.copy()
    back = linear_light.linear_to_srgb(linear)
    check_image(back, linear, kept)
    np.testing.assert_allclose(back, image, atol=5e-3)


@given(image=images, shot=st.floats(0, 2), read=st.floats(0, 30), seed=seeds)
@everyday
def test_sensor_noise(image, shot, read, seed):
    before = image.copy()
    out = linear_light.sensor_noise(image, shot, read, seed)
    check_image(out, image, before)
    np.testing.assert_array_equal(linear_light.sensor_noise(image, shot, read, seed), out)
    np.testing.assert_array_equal(linear_light.sensor_noise(image, 0.0, 0.0, seed), image)


@given(image=images, mixing=st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=3, max_size=3))
@everyday
def test_correlated_noise(image, mixing):
    before = image.copy()
    out = noise.correlated_noise(image, mixing, seed=4)
    check_image(out, image, before)
    np.testing.assert_array_equal(noise.correlated_noise(image, mixing, seed=4), out)
    np.testing.assert_array_equal(noise.correlated_noise(image, np.zeros((3, 3)), seed=4), image)


def test_correlated_noise_has_the_covariance_asked_for():
    mixing = np.array([[9.0, 0, 0], [4, 6, 0], [-3, 2, 5]])
    change = noise.correlated_noise(np.full((300, 300, 3), 128, np.float32), mixing, seed=1).reshape(-1, 3) - 128
    np.testing.assert_allclose(np.cov(change.T), mixing @ mixing.T, rtol=0.03, atol=1)
    with pytest.raises(ValueError, match=r"mixing has shape \(2, 3\); it must be 3 rows of 3"):
        noise.correlated_noise(np.zeros((4, 4, 3), np.float32), mixing[:2], seed=1)


@given(height=st.integers(1, 50), width=st.integers(1, 50), shapes=masks)
@everyday
def test_masks(height, width, shapes):
    mask = paint_mask(height, width, shapes)
    assert mask.shape == (height, width)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1}
    assert not paint_mask(height, width, ()).any()
    more = paint_mask(height, width, (*shapes, Box(left=0, top=0, width=1, height=1)))
    assert (more >= mask).all()
    assert more[0, 0] == 1
    image = np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)
    before, kept = image.copy(), mask.copy()
    out = blacked_out(image, mask)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, np.where(mask[..., None] == 1, 0, image))
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_array_equal(blacked_out(image, np.zeros_like(mask)), image)


@given(image=images, factor=st.integers(1, 5))
@everyday
def test_decimation_and_gray(image, factor):
    before = image.copy()
    np.testing.assert_array_equal(Decimate(factor=factor).apply(image), image[::factor, ::factor])
    np.testing.assert_array_equal(Decimate(factor=1).apply(image), image)
    gray = Gray().apply(image)
    check_image(gray, image, before)
    np.testing.assert_allclose(Gray().apply(gray), gray, atol=1e-3)  # gray already: nothing changes
    np.testing.assert_allclose(gray[..., 0], cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def test_jpeg_of_the_best_quality_changes_a_flat_image_by_a_level_at_most():
    for level in (0, 77, 128, 255):
        flat = np.full((16, 24, 3), level, np.uint8)
        assert np.abs(jpeg.jpeg(flat, 100).astype(int) - level).max() <= 1


@given(size=st.integers(1, 200), seed=seeds)
@everyday
def test_words_are_those_of_numpys_generator(size, seed):
    np.testing.assert_array_equal(random_words(seed, size), generator(seed).bit_generator.random_raw(size))
    assert standard_normal((size, 3), seed).shape == (size, 3)


def test_bicubic_draws_nothing():
    assert BicubicSection().draw(generator(0), 8, 8, 4) == BicubicSection().draw(generator(1), 8, 8, 4)
