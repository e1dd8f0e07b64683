import numpy as np
import pytest
import torch

from resshift.images import (
    fit_condition,
    fit_mask,
    image_to_tensor,
    mask_to_tensor,
    tensor_to_image,
    unknown_pixels,
    upscale_lq,
)
from resshift.padding import pad_bottom_right


def test_every_value_survives_the_round_trip():
    image = np.arange(256 * 3, dtype=np.uint32).astype(np.uint8).reshape(16, 16, 3)
    x = image_to_tensor(image)
    assert x.shape == (1, 3, 16, 16)
    assert (x.min(), x.max()) == (-1, 1)
    assert np.array_equal(tensor_to_image(x), image)


def test_out_of_range_is_clamped_and_the_rest_rounded():
    x = torch.tensor([-3.0, 3.0, 0.0039]).view(3, 1, 1)
    assert tensor_to_image(x).flatten().tolist() == [0, 255, 128]


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_rgb_image_is_refused(image):
    with pytest.raises(ValueError, match="uint8 RGB"):
        image_to_tensor(image)


def test_upscaling_is_bicubic_without_clamping():
    step = torch.ones(1, 3, 1, 8)
    step[..., :4] = -1
    up = upscale_lq(step, 4)
    assert up.shape == (1, 3, 4, 32)
    assert up.max() > 1
    assert upscale_lq(step, 1) is step


def test_conditions_fit_the_denoiser():
    lq = torch.rand(1, 3, 6, 8)
    assert fit_condition(lq, (6, 8)) is lq
    assert fit_condition(lq, (24, 32)).shape == (1, 3, 24, 32)
    assert fit_condition(lq, (3, 4)).shape == (1, 3, 3, 4)
    np.testing.assert_array_equal(unknown_pixels(np.array([[0, 127], [128, 255]], np.uint8)), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(unknown_pixels(np.eye(2, dtype=bool)), np.eye(2, dtype=bool))
    np.testing.assert_array_equal(unknown_pixels(np.zeros((2, 3), np.uint8)), np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match=r"mask holds 0 and 1; .*multiply it by 255, or make it bool"):
        unknown_pixels(np.eye(2, dtype=np.uint8))
    for mask in (np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2), np.float32)):
        with pytest.raises(ValueError, match=r"mask has shape .*give bool or uint8"):
            unknown_pixels(mask)
    mask = mask_to_tensor(np.array([[0, 127], [128, 255]], np.uint8))
    assert mask.tolist() == [[[[-1, -1], [1, 1]]]]
    assert fit_mask(mask, (1, 2)).tolist() == [[[[0, 0]]]]
    assert fit_mask(mask, (4, 4)).unique().tolist() == [-1, 1]


def test_padding_mirrors_where_it_can():
    x = torch.arange(3.0).view(1, 1, 1, 3)
    assert pad_bottom_right(x, 1, 5).flatten().tolist() == [0, 1, 2, 1, 0]
    assert pad_bottom_right(x, 1, 3) is x
    assert pad_bottom_right(x, 4, 3)[0, 0, 3].tolist() == [0, 1, 2]
