"""Filtering an image with an arbitrary small kernel, fast.

OpenCV's dense filter costs time per nonzero weight, and ten times more from 130 weights up, where it turns to the
Fourier transform. Two ways around, and the cheapest of the three is taken:

- a sum of separable filters: blur kernels are smooth, so in K = Σ_r s_r u_r v_rᵀ few terms matter;
- dense filtering in bands of fewer than 130 weights, negligible ones dropped: a narrow tilted kernel is mostly zeros.

Legend: H, W height and width; K kernel size; R number of separable terms. Images are float32 or uint8 (H, W, 3),
results float32 in the same unit.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from degradations.arrays import to_float32

# Σ|K - approximation| stays near this, so no output value is off by more than a quarter of a gray level of 255
# (photos under the training kernels: 0.12 at most, 0.003 root mean square).
TOLERANCE = 1e-3

# What things cost, in milliseconds per 256x256x3 image; only ratios matter, and only for speed.
_MS_PER_WEIGHT = 0.0067
_MS_PER_BAND = 0.03
_MS_PER_TERM = 0.04
_MS_PER_TERM_AND_TAP = 0.0125
_MS_PER_TERM_AND_TAP_SQUARED = 0.0003  # long filters fall out of the cache
_MS_TO_SPLIT = 0.08  # whatever the image
_MS_FOURIER = 4.0  # whatever the kernel
_DENSE_LIMIT = 129  # weights in one dense filter before OpenCV turns to the Fourier transform


def filter2d(image: NDArray, kernel: NDArray) -> NDArray[np.float32]:
    """Correlates `image` (H, W, 3) with `kernel` (K, K), borders mirrored without repeating the edge pixel.

    The same as a direct correlation within a quarter of a gray level when `image` spans 0..255.
    """
    kernel = _trimmed(np.asarray(kernel, dtype=np.float64))
    size = kernel.shape[0]
    if size == 1:
        return to_float32(image) * np.float32(kernel[0, 0])
    area = image.shape[0] * image.shape[1] / 256**2
    if area * kernel.size * _MS_PER_WEIGHT < _MS_TO_SPLIT:  # finding something better costs more than it saves
        return _dense(to_float32(image), kernel)
    one = _single_term(kernel)
    if one is not None:
        return _separable(image, *one)
    sparse = _sparse(kernel)
    dense_ms = area * (np.count_nonzero(sparse) * _MS_PER_WEIGHT + (1 + sparse.size // _DENSE_LIMIT) * _MS_PER_BAND)
    term_ms = area * (_MS_PER_TERM + size * _MS_PER_TERM_AND_TAP + size**2 * _MS_PER_TERM_AND_TAP_SQUARED)
    if dense_ms < _MS_TO_SPLIT + 2 * term_ms:
        return _dense(to_float32(image), sparse)
    columns, rows = separable_terms(kernel)
    terms_ms = len(columns) * term_ms
    if area * _MS_FOURIER < min(dense_ms, terms_ms):
        return _direct(to_float32(image), kernel)
    if dense_ms < terms_ms:
        return _dense(to_float32(image), sparse)
    out = _separable(image, columns[0], rows[0])
    for column, row in zip(columns[1:], rows[1:], strict=True):
        cv2.add(out, _separable(image, column, row), dst=out)
    return out


def _single_term(kernel: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """The column and row filter of a kernel that is separable as it is, such as an upright Gaussian; otherwise None."""
    column, row = kernel.sum(axis=1), kernel.sum(axis=0)
    total = column.sum()
    if total <= 0 or np.abs(kernel - np.outer(column, row / total)).sum() > TOLERANCE / 10:
        return None
    # Summing leaves mirrored taps a rounding apart, and OpenCV is twice as fast when they are exactly equal
    return _evened(column).astype(np.float32), _evened(row / total).astype(np.float32)


def _evened(taps: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = (taps + taps[::-1]) / 2
    return mean if np.abs(mean - taps).max() < 1e-12 else taps


def separable_terms(kernel: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Splits `kernel` (K, K) into R column and row filters, each (R, K), whose outer products sum to it.

    R is the smallest rank that leaves less than TOLERANCE of absolute kernel weight out. A kernel that is its own
    reflection through the centre gives exactly even and odd filters, which OpenCV runs in half the time.
    """
    columns, strengths, rows = _decomposed(kernel)
    # weight[r] bounds what leaving out the terms from r on changes: Σ|s u vᵀ| = s Σ|u| Σ|v|, summed over those terms
    weight = np.cumsum((strengths * np.abs(columns).sum(axis=1) * np.abs(rows).sum(axis=1))[::-1])[::-1]
    rank = max(1, int(np.count_nonzero(weight > TOLERANCE)))
    root = np.sqrt(strengths[:rank, None])
    return (root * columns[:rank]).astype(np.float32), (root * rows[:rank]).astype(np.float32)


def _decomposed(kernel: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
    """columns (R, K), strengths (R,) falling, rows (R, K), with kernel = Σ_r strength_r column_r row_rᵀ."""
    if np.abs(kernel - kernel[::-1, ::-1]).max() > 1e-12:
        u, strengths, vt = np.linalg.svd(kernel)
        return u.T, strengths, vt
    flipped = kernel[:, ::-1]
    even = _folded_svd((kernel + flipped) / 2, sign=1)
    if np.abs(kernel - flipped).max() < 1e-12:
        return even
    odd = _folded_svd((kernel - flipped) / 2, sign=-1)
    columns, strengths, rows = (np.concatenate(arrays) for arrays in zip(even, odd, strict=True))
    order = np.argsort(-strengths, kind="stable")
    return columns[order], strengths[order], rows[order]


def _folded_svd(kernel: NDArray[np.float64], sign: int) -> tuple[NDArray, NDArray, NDArray]:
    """SVD of a kernel even (`sign` 1) or odd (-1) along both axes, from a quadrant: left (R, K), s (R,), right."""
    half = kernel.shape[0] // 2
    fold = np.full(half + 1, np.sqrt(2.0))  # every entry off the centre stands for two
    fold[0] = 1.0
    u, s, vt = np.linalg.svd(kernel[half:, half:] * np.outer(fold, fold))

    def unfolded(vectors: NDArray) -> NDArray:
        right = vectors / fold
        return np.concatenate([sign * right[:, :0:-1], right], axis=1)

    # An odd filter is 0 at its centre, and so is the quadrant's first row and column: that null term is dropped.
    if sign == -1:
        u, s, vt = u[:, :-1], s[:-1], vt[:-1]
    return unfolded(u.T), s, unfolded(vt)


def _separable(image: NDArray, column: NDArray[np.float32], row: NDArray[np.float32]) -> NDArray[np.float32]:
    return to_float32(cv2.sepFilter2D(image, cv2.CV_32F, row, column, borderType=cv2.BORDER_REFLECT_101))


def _direct(image: NDArray[np.float32], kernel: NDArray[np.float64]) -> NDArray[np.float32]:
    return to_float32(cv2.filter2D(image, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101))


def _dense(image: NDArray[np.float32], kernel: NDArray[np.float64]) -> NDArray[np.float32]:
    """Direct correlation, the kernel cut into bands of rows small enough for OpenCV's direct filter."""
    if kernel.size <= _DENSE_LIMIT:
        return _direct(image, kernel)
    size, height = kernel.shape[0], image.shape[0]
    taps = kernel.astype(np.float32)
    margin = size // 2
    padded = cv2.copyMakeBorder(image, margin, margin, 0, 0, cv2.BORDER_REFLECT_101)
    step = _DENSE_LIMIT // size
    out = np.zeros_like(image)
    for top in range(0, size, step):
        band = taps[top : top + step]
        if band.any():
            source = padded[top : top + height + len(band) - 1]
            part = cv2.filter2D(source, -1, band, anchor=(margin, 0), borderType=cv2.BORDER_REFLECT_101)
            cv2.add(out, part[:height], dst=out)
    return out


def _sparse(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest weights set to zero, as many as together stay below the tolerance."""
    weights = np.abs(kernel)
    ascending = np.sort(weights, axis=None)
    dropped = int(np.searchsorted(np.cumsum(ascending), TOLERANCE / 2))
    kept = np.where(weights >= ascending[min(dropped, kernel.size - 1)], kernel, 0.0)
    return _with_sum_of(kernel, kept)


def _with_sum_of(kernel: NDArray[np.float64], approximation: NDArray[np.float64]) -> NDArray[np.float64]:
    """`approximation` scaled to the sum of `kernel`, so that leaving weights out does not darken the image."""
    total = approximation.sum()
    return approximation * (kernel.sum() / total) if total > 0.5 else approximation


def _trimmed(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drops the outer rings that hold no weight to speak of (a narrow Gaussian in a wide window)."""
    size = kernel.shape[0]
    weights = np.abs(kernel)
    total = weights.sum()
    margin = 0
    while margin < size // 2:
        inner = weights[margin + 1 : size - margin - 1, margin + 1 : size - margin - 1].sum()
        if total - inner > TOLERANCE / 4:
            break
        margin += 1
    return _with_sum_of(kernel, np.ascontiguousarray(kernel[margin : size - margin, margin : size - margin]))
