"""The noise field: one field per seed, of which every window is a part."""

import numpy as np
import pytest
import torch

from resshift.noise import BLOCK, NoiseField


@pytest.mark.parametrize(
    ("top", "left", "height", "width"), [(0, 0, 5, 3), (60, 0, 8, 70), (130, 65, 64, 1), (63, 63, 2, 2)]
)
def test_a_window_is_a_part_of_the_whole(top, left, height, width):
    field = NoiseField(3, num_steps=2, channels=3)
    whole = field.window(0, 0, 4 * BLOCK, 3 * BLOCK)
    window = field.window(top, left, height, width)
    assert window.shape == (3, 1, 3, height, width)
    assert torch.equal(window, whole[..., top : top + height, left : left + width])


def test_it_is_standard_normal_and_nothing_repeats():
    whole = NoiseField(0, num_steps=3, channels=2).window(0, 0, 256, 256).numpy()
    assert abs(whole.mean()) < 0.01
    assert abs(whole.std() - 1) < 0.01
    squares = whole.reshape(4, 1, 2, 4, 64, 4, 64).transpose(0, 1, 2, 3, 5, 4, 6).reshape(-1, 64 * 64)
    correlation = np.corrcoef(squares) - np.eye(len(squares))
    assert np.abs(correlation).max() < 0.1
    other = NoiseField(1, num_steps=3, channels=2).window(0, 0, 256, 256).numpy()
    assert abs(np.corrcoef(whole.ravel(), other.ravel())[0, 1]) < 0.01
