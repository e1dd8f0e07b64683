"""Gaussian and Poisson noise from a seed. Images are float32 (H, W, 3) in gray levels (0..255)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from degradations.arrays import to_float32, to_uint8
from degradations.normal import standard_normal
from degradations.poisson import first_counts, poisson_offsets
from degradations.seeding import generator

Image = NDArray[np.float32]


def gaussian_noise(image: Image, sigma: float, seed: int, *, gray: bool = False) -> Image:
    """Adds N(0, `sigma`²), `sigma` in gray levels; `gray` adds one value to the three channels. Clips to 0..255."""
    image = to_float32(image)
    shape = image.shape[:2] if gray else image.shape
    noise = standard_normal(shape, generator(seed))
    return _clipped_sum(image, noise, sigma)


def poisson_noise(image: Image, scale: float, seed: int, *, gray: bool = False) -> Image:
    """Adds `scale` times the Poisson (shot) noise of `image`, and clips to 0..255.

    The photon count at full white is the number of distinct gray levels in the image, rounded up to a power of two, so
    a flat image is noisier than a rich one. `gray` draws the noise of the luma and adds it to the three channels.
    """
    image = to_float32(image)
    levels = to_uint8(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if gray else image)
    photons = photons_at_white(levels)
    offsets = poisson_offsets(levels, photons, generator(seed))
    unit = 255.0 / photons  # gray levels per photon
    noise = to_float32(cv2.LUT(levels, (first_counts(photons) * unit - np.arange(256)).astype(np.float32)))
    cv2.scaleAdd(to_float32(offsets), unit, noise, dst=noise)
    return _clipped_sum(image, noise, scale)


def correlated_noise(image: Image, mixing: Sequence[Sequence[float]], seed: int) -> Image:
    """Adds `mixing` (3, 3) times a standard normal vector to every pixel, in gray levels. Clips to 0..255."""
    matrix = np.asarray(mixing, dtype=np.float32)
    if matrix.shape != (3, 3):
        raise ValueError(f"mixing has shape {matrix.shape}; it must be 3 rows of 3 numbers")
    image = to_float32(image)
    noise = cv2.transform(standard_normal(image.shape, generator(seed)), matrix)
    return _clipped_sum(image, to_float32(noise), 1.0)


def photons_at_white(levels: NDArray[np.uint8]) -> int:
    """Distinct values of `levels`, rounded up to a power of two (1..256)."""
    histogram = cv2.calcHist([levels.reshape(levels.shape[0], -1)], [0], None, [256], [0, 256])
    return 1 << (int(np.count_nonzero(histogram)) - 1).bit_length()


def _clipped_sum(image: Image, noise: Image, scale: float) -> Image:
    """`image` + `scale` · `noise`, the noise (H, W) or (H, W, 3), in 0..255. Overwrites `noise`."""
    if noise.ndim == 2:
        noise = to_float32(cv2.cvtColor(noise, cv2.COLOR_GRAY2RGB))
    cv2.scaleAdd(noise, scale, image, dst=noise)
    return np.clip(noise, 0, 255, out=noise)
