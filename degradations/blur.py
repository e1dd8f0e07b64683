"""Filtering an image with an arbitrary small kernel, fast.

A dense 2-D filter of 13x13 or more costs ten times a separable one. Blur kernels are smooth, so their singular values
fall quickly: K = Σ_i s_i u_i v_iᵀ, cut where the rest cannot matter, is a short sum of separable filters.

Legend: H, W height and width; K kernel size. Images are float32 or uint8 (H, W, C), results float32 in the same unit.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from degradations.arrays import to_float32

# Σ|K - approximation| stays below this, so no output value is off by more than 1e-4 of full scale (0.026 gray levels).
TOLERANCE = 1e-4

# Milliseconds per 256x256x3 filtering, dense and per separable term, by kernel size; only their ratio matters. Dense
# filtering jumps at 13 because OpenCV turns to the Fourier transform there.
_DENSE_MS = {1: 0.05, 3: 0.08, 5: 0.18, 7: 0.35, 9: 0.54, 11: 0.81}
_SEPARABLE_MS = {1: 0.05, 3: 0.06, 5: 0.12, 7: 0.16, 9: 0.2, 11: 0.21}


def filter2d(image: NDArray, kernel: NDArray) -> NDArray[np.float32]:
    """Correlates `image` (H, W, C) with `kernel` (K, K), borders mirrored without repeating the edge pixel.

    The same as a direct correlation within TOLERANCE times the full scale of `image`.
    """
    kernel = _trimmed(np.asarray(kernel, dtype=np.float64))
    size = kernel.shape[0]
    if size == 1:
        return to_float32(image) * np.float32(kernel[0, 0])
    columns, rows = separable_terms(kernel)
    if size in _DENSE_MS and _DENSE_MS[size] < len(columns) * _SEPARABLE_MS[size]:
        taps = kernel.astype(np.float32)
        return to_float32(cv2.filter2D(to_float32(image), cv2.CV_32F, taps, borderType=cv2.BORDER_REFLECT_101))
    out = _separable(image, columns[0], rows[0])
    for column, row in zip(columns[1:], rows[1:], strict=True):
        cv2.add(out, _separable(image, column, row), dst=out)
    return out


def separable_terms(kernel: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Splits `kernel` (K, K) into R column and row filters, each (R, K), whose outer products sum to it.

    R is the smallest rank that leaves less than TOLERANCE of absolute kernel weight out.
    """
    u, s, vt = np.linalg.svd(kernel)
    rank = 1
    rest = kernel - s[0] * np.outer(u[:, 0], vt[0])
    while np.abs(rest).sum() > TOLERANCE and rank < len(s):
        rest -= s[rank] * np.outer(u[:, rank], vt[rank])
        rank += 1
    root = np.sqrt(s[:rank, None])
    return (root * u.T[:rank]).astype(np.float32), (root * vt[:rank]).astype(np.float32)


def _separable(image: NDArray, column: NDArray[np.float32], row: NDArray[np.float32]) -> NDArray[np.float32]:
    return to_float32(cv2.sepFilter2D(image, cv2.CV_32F, row, column, borderType=cv2.BORDER_REFLECT_101))


def _trimmed(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drops the outer rings that hold no weight to speak of (a narrow Gaussian in a wide window)."""
    size = kernel.shape[0]
    total = np.abs(kernel)
    kept = size
    weight = total.sum()
    while kept > 1:
        ring = (size - kept) // 2 + 1
        inner = total[ring : size - ring, ring : size - ring].sum()
        if weight - inner > TOLERANCE / 10:
            break
        kept -= 2
    margin = (size - kept) // 2
    return np.ascontiguousarray(kernel[margin : size - margin, margin : size - margin])
