"""Blur kernels of the Real-ESRGAN degradation model, as functions of their parameters.

Every kernel is a (size, size) float64 array, centred, odd-sized, that sums to 1. With the rotated, scaled radius

    q(x, y) = ((x cos θ + y sin θ) / σ_x)² + ((y cos θ - x sin θ) / σ_y)²

the families are (before normalisation)

    gaussian              exp(-q / 2)
    generalized_gaussian  exp(-q^β / 2)          β < 1 heavier tails, β > 1 flatter top
    plateau               1 / (1 + q^β)
    sinc                  ω J₁(ω r) / (2π r)     ideal circular low-pass with cutoff ω, which rings

Source: Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", 3.1-3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

Kernel = NDArray[np.float64]


def gaussian(
    size: int, sigma_x: float, sigma_y: float | None = None, theta: float = 0.0, *, shift: float = 0.0
) -> Kernel:
    """Gaussian kernel, isotropic unless `sigma_y` (pixels) and `theta` (radians from the x axis) say otherwise.

    `shift` moves its peak to the right and down, pixels.

    Raises ValueError for an even or non-positive `size` and for sigmas that are not positive.
    """
    return _normalized(np.exp(-0.5 * _squared_radius(size, sigma_x, sigma_y, theta, shift)))


def generalized_gaussian(
    size: int, sigma_x: float, sigma_y: float | None = None, theta: float = 0.0, *, beta: float
) -> Kernel:
    """Generalised Gaussian with shape `beta` > 0; `beta=1` is `gaussian`."""
    _check_positive("beta", beta)
    return _normalized(np.exp(-0.5 * _squared_radius(size, sigma_x, sigma_y, theta) ** beta))


def plateau(size: int, sigma_x: float, sigma_y: float | None = None, theta: float = 0.0, *, beta: float) -> Kernel:
    """Plateau-shaped kernel 1 / (1 + q^β) with shape `beta` > 0."""
    _check_positive("beta", beta)
    return _normalized(1.0 / (1.0 + _squared_radius(size, sigma_x, sigma_y, theta) ** beta))


def sinc(size: int, cutoff: float) -> Kernel:
    """Circular low-pass filter with `cutoff` in radians per pixel, 0 < cutoff <= π; cut to `size`, so it rings."""
    if not 0 < cutoff <= math.pi:
        raise ValueError(f"cutoff is {cutoff}; it must lie in (0, pi] radians per pixel")
    x = _axis(size)
    radius = np.hypot(x[:, None], x[None, :])
    radius[size // 2, size // 2] = 1.0  # the limit at r = 0 is filled in below
    kernel = cutoff * j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return _normalized(kernel)


def disk(size: int, radius: float) -> Kernel:
    """Defocus: a disk of `radius` pixels with an antialiased edge (coverage of each pixel, 8x8 supersampled)."""
    _check_positive("radius", radius)
    fine = (np.arange(size * 8) + 0.5) / 8 - size / 2
    _axis(size)  # only for its check
    inside = (fine[:, None] ** 2 + fine[None, :] ** 2 <= radius**2).astype(np.float64)
    covered = inside.reshape(size, 8, size, 8).mean(axis=(1, 3))
    if covered.sum() == 0:  # a disk smaller than the supersampling grid blurs nothing
        covered[size // 2, size // 2] = 1.0
    return _normalized(covered)


def motion(points: Sequence[tuple[float, float]]) -> Kernel:
    """Motion blur: the time spent at each pixel on the way through `points` (x, y), pixels, equal time between them.

    The kernel is as large as the points, taken about their origin, need.
    """
    if len(points) < 2:
        raise ValueError(f"a trajectory has {len(points)} points; it needs at least 2")
    corners = np.asarray(points, dtype=np.float64)
    half = math.ceil(np.abs(corners).max()) + 1
    longest = np.hypot(*np.diff(corners, axis=0).T).max()
    per_segment = max(2, math.ceil(longest / 0.05))
    fraction = (np.arange(per_segment) + 0.5) / per_segment
    path = corners[:-1, None] + np.diff(corners, axis=0)[:, None] * fraction[:, None]
    x, y = path.reshape(-1, 2).T + half
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    for right in (0, 1):  # shared among the four pixels around, bilinearly
        for down in (0, 1):
            weight = np.abs(1 - right - (x - left)) * np.abs(1 - down - (y - top))
            np.add.at(kernel, (top + down, left + right), weight)
    return _normalized(kernel)


def _axis(size: int) -> NDArray[np.float64]:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"kernel size is {size}; it must be odd and positive, so that the kernel has a centre")
    return np.arange(size, dtype=np.float64) - size // 2


def _squared_radius(
    size: int, sigma_x: float, sigma_y: float | None, theta: float, shift: float = 0.0
) -> NDArray[np.float64]:
    sigma_y = sigma_x if sigma_y is None else sigma_y
    _check_positive("sigma_x", sigma_x)
    _check_positive("sigma_y", sigma_y)
    axis = _axis(size) - shift
    x, y = axis[None, :], axis[:, None]
    cos, sin = math.cos(theta), math.sin(theta)
    return ((x * cos + y * sin) / sigma_x) ** 2 + ((y * cos - x * sin) / sigma_y) ** 2


def _normalized(kernel: NDArray[np.float64]) -> Kernel:
    return kernel / kernel.sum()


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; it must be positive")
