"""Gaussian and Poisson noise from a seed. Images are float32 (H, W, 3) in gray levels (0..255)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from degradations.arrays import to_float32
from degradations.compiled import add_looked_up, add_poisson, quantize
from degradations.normal import slice_means, slices, standard_normal
from degradations.poisson import alias_table, first_counts
from degradations.seeding import random_words

Image = NDArray[np.float32]


def gaussian_noise(image: Image, sigma: float, seed: int, *, gray: bool = False) -> Image:
    """Adds N(0, `sigma`²), `sigma` in gray levels; `gray` adds one value to the three channels. Clips to 0..255."""
    pixels = to_float32(image).reshape(-1, 3)
    out = np.empty_like(pixels)
    drawn = slices(len(pixels) if gray else pixels.size, seed)
    add_looked_up(pixels, slice_means(), drawn, np.float32(sigma), out)
    return out.reshape(image.shape)


def poisson_noise(image: Image, scale: float, seed: int, *, gray: bool = False) -> Image:
    """Adds `scale` times the Poisson (shot) noise of `image`, and clips to 0..255.

    The photon count at full white is the number of distinct gray levels in the image, rounded up to a power of two, so
    a flat image is noisier than a rich one. `gray` draws the noise of the luma and adds it to the three channels.
    """
    image = to_float32(image)
    of = to_float32(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) if gray else image
    levels = np.empty(of.size, np.uint8)
    photons = photons_at_white(quantize(of.reshape(-1), levels))
    words = random_words(seed, (levels.size + 1) // 2).view(np.uint32)[: levels.size]
    unit = 255.0 / photons  # gray levels per photon
    first = (first_counts(photons) * unit - np.arange(256)).astype(np.float32)
    out = np.empty((image.size // 3, 3), np.float32)
    add_poisson(
        image.reshape(-1, 3), levels, words, alias_table(photons), first, np.float32(unit), np.float32(scale), out
    )
    return out.reshape(image.shape)


def correlated_noise(image: Image, mixing: Sequence[Sequence[float]], seed: int) -> Image:
    """Adds `mixing` (3, 3) times a standard normal vector to every pixel, in gray levels. Clips to 0..255."""
    matrix = np.asarray(mixing, dtype=np.float32)
    if matrix.shape != (3, 3):
        raise ValueError(f"mixing has shape {matrix.shape}; it must be 3 rows of 3 numbers")
    image = to_float32(image)
    noise = to_float32(cv2.transform(standard_normal(image.shape, seed), matrix))
    cv2.add(noise, image, dst=noise)
    return np.clip(noise, 0, 255, out=noise)


def photons_at_white(distinct: int) -> int:
    """`distinct` gray levels, rounded up to a power of two (1..256)."""
    return 1 << (int(distinct) - 1).bit_length()
