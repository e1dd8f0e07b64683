"""Gaussian and Poisson noise from a seed. Images are float32 (H, W, 3) in gray levels (0..255)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from degradations.arrays import to_float32
from degradations.seeding import generator

Image = NDArray[np.float32]
_LUMA = np.array([0.2989, 0.5870, 0.1140], dtype=np.float32)


def gaussian_noise(image: Image, sigma: float, seed: int, *, gray: bool = False) -> Image:
    """Adds N(0, `sigma`²), `sigma` in gray levels; `gray` adds one value to the three channels. Clips to 0..255."""
    image = to_float32(image)
    height, width, channels = image.shape
    noise = generator(seed).standard_normal((height, width, 1 if gray else channels), dtype=np.float32)
    noise *= np.float32(sigma)
    out = image + noise
    return np.clip(out, 0, 255, out=out)


def poisson_noise(image: Image, scale: float, seed: int, *, gray: bool = False) -> Image:
    """Adds `scale` times the Poisson (shot) noise of `image`, and clips to 0..255.

    The photon count at full white is the number of distinct gray levels in the image, rounded up to a power of two, so
    a flat image is noisier than a rich one. `gray` draws the noise of the luma and adds it to the three channels.
    """
    image = to_float32(image)
    source = (image @ _LUMA)[..., None] if gray else image
    levels = np.clip(np.rint(source), 0, 255).astype(np.uint8)  # (H, W, C): at most 256 different rates
    photons = photons_at_white(levels)
    rates = np.arange(256) * (photons / 255.0)
    counts = generator(seed).poisson(rates[levels]).astype(np.float32)
    noise: Image = counts * np.float32(255.0 / photons) - levels.astype(np.float32)
    out: Image = image + noise * np.float32(scale)
    return np.clip(out, 0, 255, out=out)


def photons_at_white(levels: NDArray[np.uint8]) -> int:
    """Distinct values of `levels`, rounded up to a power of two (1..256)."""
    distinct = int(np.count_nonzero(np.bincount(levels.ravel(), minlength=256)))
    return 1 << (distinct - 1).bit_length()
