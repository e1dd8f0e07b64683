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

# Σ|K - approximation| stays below this, so no output value is off by more than a tenth of a gray level of 255.
TOLERANCE = 4e-4

# Milliseconds per 256x256x3 filtering, dense and per separable term, by kernel size; only their ratio matters. Dense
# filtering jumps at 13 because OpenCV turns to the Fourier transform there.
_DENSE_MS = {3: 0.08, 5: 0.18, 7: 0.35, 9: 0.54, 11: 0.81}
_DENSE_DFT_MS = 5.2
_SEPARABLE_MS = {3: 0.06, 5: 0.1, 7: 0.15, 9: 0.18, 11: 0.2}
_SPLITTING_MS = 0.1  # what finding the separable terms costs, whatever the image


def filter2d(image: NDArray, kernel: NDArray) -> NDArray[np.float32]:
    """Correlates `image` (H, W, C) with `kernel` (K, K), borders mirrored without repeating the edge pixel.

    The same as a direct correlation within TOLERANCE times the full scale of `image`.
    """
    kernel = _trimmed(np.asarray(kernel, dtype=np.float64))
    size = kernel.shape[0]
    if size == 1:
        return to_float32(image) * np.float32(kernel[0, 0])
    area = image.shape[0] * image.shape[1] / 256**2
    dense_ms = _DENSE_MS.get(size, _DENSE_DFT_MS) * area
    columns, rows = separable_terms(kernel) if dense_ms > _SPLITTING_MS else (None, None)
    if columns is None or rows is None or dense_ms < len(columns) * _SEPARABLE_MS.get(size, 0) * area:
        taps = kernel.astype(np.float32)
        return to_float32(cv2.filter2D(to_float32(image), cv2.CV_32F, taps, borderType=cv2.BORDER_REFLECT_101))
    out = _separable(image, columns[0], rows[0])
    for column, row in zip(columns[1:], rows[1:], strict=True):
        cv2.add(out, _separable(image, column, row), dst=out)
    return out


def separable_terms(kernel: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Splits `kernel` (K, K) into R column and row filters, each (R, K), whose outer products sum to it.

    R is the smallest rank that leaves less than TOLERANCE of absolute kernel weight out. A kernel that is its own
    reflection through the centre gives exactly even and odd filters, which OpenCV runs in half the time.
    """
    if np.abs(kernel - kernel[::-1, ::-1]).max() < 1e-12:
        even = (kernel + kernel[:, ::-1]) / 2
        parts = [_folded_svd(even, sign=1), _folded_svd(kernel - even, sign=-1)]
        columns, strengths, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(-strengths, kind="stable")
        columns, strengths, rows = columns[order], strengths[order], rows[order]
    else:
        u, strengths, rows = np.linalg.svd(kernel)
        columns = u.T
    # weight[r] bounds what leaving out the terms from r on changes: Σ|s u vᵀ| = s Σ|u| Σ|v|, summed over those terms
    weight = np.cumsum((strengths * np.abs(columns).sum(axis=1) * np.abs(rows).sum(axis=1))[::-1])[::-1]
    rank = max(1, int(np.count_nonzero(weight > TOLERANCE)))
    root = np.sqrt(strengths[:rank, None])
    return (root * columns[:rank]).astype(np.float32), (root * rows[:rank]).astype(np.float32)


def _folded_svd(kernel: NDArray[np.float64], sign: int) -> tuple[NDArray, NDArray, NDArray]:
    """SVD of a kernel even (`sign` 1) or odd (-1) along both axes, from a quadrant: left (R, K), s (R,), right."""
    half = kernel.shape[0] // 2
    first = 0 if sign == 1 else 1  # an odd filter is 0 at its centre
    quadrant = kernel[half + first :, half + first :].copy()
    if quadrant.size == 0 or np.abs(quadrant).max() < TOLERANCE / kernel.size:
        return np.zeros((0, kernel.shape[0])), np.zeros(0), np.zeros((0, kernel.shape[0]))
    root2 = np.sqrt(2.0)  # every entry off the centre stands for two
    fold = np.full(quadrant.shape[0], root2)
    fold[0] = 1.0 if sign == 1 else root2
    u, s, vt = np.linalg.svd(quadrant * fold[:, None] * fold)

    def unfolded(vectors: NDArray) -> NDArray:
        right = vectors / fold
        centre = right[:, :1] if sign == 1 else np.zeros((len(right), 1))
        outer = right[:, 1:] if sign == 1 else right
        return np.concatenate([sign * outer[:, ::-1], centre, outer], axis=1)

    return unfolded(u.T), s, unfolded(vt)


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
