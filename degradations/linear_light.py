"""Between sRGB gray levels and linear light, where blur and sensor noise happen. Images are RGB (H, W, 3) in 0..255."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from degradations.arrays import to_float32
from degradations.compiled import interpolate
from degradations.normal import standard_normal

Image = NDArray[np.float32]

_STEPS = 8192  # of the encoding table


def srgb_to_linear(image: NDArray) -> Image:
    """IEC 61966-2-1 decoding; 255 stays 255."""
    if image.dtype == np.uint8:
        return to_float32(cv2.LUT(image, _linear_of_level()))
    return _decoded(np.clip(to_float32(image), 0, 255))


def linear_to_srgb(image: NDArray) -> Image:
    """IEC 61966-2-1 encoding, to 2e-4 gray levels; clips to 0..255 first.

    From a table: a power by NumPy has other last bits on a processor with AVX-512.
    """
    root = np.sqrt(np.clip(to_float32(image), 0, 255) * np.float32(_STEPS**2 / 255))
    out = np.empty_like(root)
    interpolate(_level_of_root(), root.reshape(-1), out.reshape(-1))
    return out


def sensor_noise(image: Image, shot: float, read: float, seed: int) -> Image:
    """Adds N(0, shot · x + read²) to each linear value x: photon shot noise and read noise, in gray levels. Clips.

    Source: Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data".
    """
    if shot < 0 or read < 0:
        raise ValueError(f"shot is {shot} and read is {read}; neither may be negative")
    image = to_float32(image)
    noise = standard_normal(image.shape, seed)
    noise *= np.sqrt(np.maximum(image, 0) * np.float32(shot) + np.float32(read**2))
    noise += image
    return np.clip(noise, 0, 255, out=noise)


@lru_cache(maxsize=1)
def _linear_of_level() -> Image:
    return _decoded(np.arange(256, dtype=np.float32))


@lru_cache(maxsize=1)
def _level_of_root() -> Image:
    """Gray levels of equidistant square roots of linear light, where the curve bends least: (_STEPS + 2,)."""
    light = [(step / _STEPS) ** 2 for step in range(_STEPS + 2)]
    return to_float32(
        np.array([255 * (12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055) for x in light])
    )


def _decoded(image: Image) -> Image:
    x = image.astype(np.float64) / 255
    return to_float32(np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) * 255)
