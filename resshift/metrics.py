"""PSNR-Y of uint8 images, the definition that evaluation reports, for those that may not know evaluation."""

from __future__ import annotations

import math

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])
"""Full-range BT.601."""
MSE_FLOOR = 1e-8
"""Of images in [0, 1]: keeps the PSNR of equal images finite (80 dB)."""


def psnr_y(restored: np.ndarray, hq: np.ndarray) -> float:
    """PSNR of the unrounded luma of two uint8 RGB images (H, W, 3) in dB: 10 log10(1 / (MSE + 1e-8)).

    Raises:
        ValueError: the shapes differ.
    """
    if restored.shape != hq.shape:
        raise ValueError(f"images have shapes {restored.shape} and {hq.shape}; give two of one size")
    difference = (restored.astype(np.float64) - hq.astype(np.float64)) @ LUMA / 255.0
    return 10.0 * math.log10(1.0 / (float(np.mean(np.square(difference))) + MSE_FLOOR))
