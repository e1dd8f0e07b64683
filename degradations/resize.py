"""Resizing: the three modes of the Real-ESRGAN model, and MATLAB's antialiased bicubic.

`area`, `bilinear` and `bicubic` follow the conventions the method was trained with: pixel centres at half integers, no
antialiasing, cubic coefficient a = -0.75, and `area` as adaptive average pooling: output pixel i is the plain mean of
the source pixels in [floor(i n/m), ceil((i+1) n/m)).

Legend: H, W source size; h, w target size; images float32 (H, W, C).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from degradations.arrays import to_float32
from degradations.compiled import apply_band, gather_band

ResizeMode = Literal["area", "bilinear", "bicubic"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("area", "bilinear", "bicubic")
_CV2_MODE = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}

Image = NDArray[np.float32]


class Band(NamedTuple):
    """A map along one axis: output i is Σ_t weights[i, t] source[start[i] + t]; start (n,), weights (n, taps)."""

    start: NDArray[np.int64]
    weights: NDArray[np.float32]


def resize(image: Image, height: int, width: int, mode: ResizeMode) -> Image:
    """Resizes `image` (H, W, C) to (`height`, `width`, C)."""
    _check_target(height, width)
    image = to_float32(image)
    if image.shape[:2] == (height, width):
        return image.copy()
    if mode == "area":
        return _apply_bands(image, _pooling_band(image.shape[0], height), _pooling_band(image.shape[1], width))
    return to_float32(cv2.resize(image, (width, height), interpolation=_CV2_MODE[mode]))


def rescale(image: Image, factor: float, mode: ResizeMode) -> Image:
    """Resizes `image` (H, W, C) to (floor(H·factor), floor(W·factor), C), sampling at exactly 1/factor pixels.

    This differs from `resize` to the same size by up to one output pixel of shift at the far border, because the
    sampling step is not stretched to make the source fit.
    """
    height, width = int(image.shape[0] * factor), int(image.shape[1] * factor)
    _check_target(height, width)
    image = to_float32(image)
    if factor == 1.0:
        return image.copy()
    if mode == "area":
        return resize(image, height, width, mode)
    # Given factors instead of a size, OpenCV rounds the size: it makes at most one row and column more than the floor.
    out = cv2.resize(image, None, fx=factor, fy=factor, interpolation=_CV2_MODE[mode])
    return to_float32(out[:height, :width])


def matlab_bicubic(image: Image, scale: float) -> Image:
    """MATLAB's `imresize(image, scale, 'bicubic')`: a = -0.5, widened by 1/scale to shrink, symmetric borders.

    Returns float32 (ceil(H·scale), ceil(W·scale), C) in the unit of `image`, not clipped.
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be positive")
    image = to_float32(image)
    return _apply_bands(image, _matlab_band(image.shape[0], scale), _matlab_band(image.shape[1], scale))


def _along_first(image: Image, band: Band) -> Image:
    out = np.empty((len(band.start), *image.shape[1:]), np.float32)
    apply_band(image.reshape(len(image), -1), band.start, band.weights, out.reshape(len(out), -1))
    return out


def _transposed(image: Image) -> Image:
    return to_float32(cv2.transpose(image)).reshape(image.shape[1], image.shape[0], image.shape[2])


def _apply_bands(image: Image, rows: Band, columns: Band) -> Image:
    """`rows` (H -> h) and `columns` (W -> w) applied along the two axes; transposed so that both run over long rows."""
    return _transposed(_along_first(_transposed(_along_first(image, rows)), columns))


@lru_cache(maxsize=4096)
def _pooling_band(source: int, target: int) -> Band:
    i = np.arange(target)
    start = i * source // target
    length = -(-(i + 1) * source // target) - start
    taps = int(length.max())
    first = np.minimum(start, source - taps)
    position = first[:, None] + np.arange(taps)
    inside = (position >= start[:, None]) & (position < (start + length)[:, None])
    return Band(first, np.where(inside, 1 / length[:, None], 0).astype(np.float32))


@lru_cache(maxsize=256)
def _matlab_band(source: int, scale: float) -> Band:
    target = int(np.ceil(source * scale))
    stretch = min(scale, 1.0)  # shrinking widens the kernel: that is the antialiasing
    support = 4.0 / stretch
    centre = (np.arange(target) + 0.5) / scale - 0.5
    first = np.floor(centre - support / 2).astype(np.int64) + 1
    index = first[:, None] + np.arange(int(np.ceil(support)) + 1)
    weight = _cubic((centre[:, None] - index) * stretch)
    weight /= weight.sum(axis=1, keepdims=True)
    period = np.concatenate([np.arange(source), np.arange(source)[::-1]])  # symmetric border, edge pixel repeated
    return Band(*gather_band(period[index % (2 * source)], weight, source))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -1/2."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x**2 + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0.0))


def _check_target(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"target size is {height}x{width}; both sides must be at least 1 pixel")
