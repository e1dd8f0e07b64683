"""Inner loops that numpy and OpenCV have no function for, compiled by numba.

All are plain float32 and integer arithmetic in a fixed order, without fused multiply-add: the same bits on any machine.
They let go of the interpreter lock. Compiled code is kept on disk, so only a machine's first process waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Floats = NDArray[np.float32]


def compiled(function: F) -> F:
    """`function` as machine code."""
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder to keep it in (a read-only container): every process compiles for itself
        return cast(F, numba.njit(nogil=True)(function))


@compiled
def apply_band(source: Floats, start: NDArray[np.int64], weights: Floats, out: Floats) -> None:
    """out[i] = Σ_t weights[i, t] source[start[i] + t]: source (N, M), weights (n, taps), out (n, M)."""
    for i in range(weights.shape[0]):
        _weighted_rows(source, start[i], weights[i], out[i])


@compiled
def gather_band(index: NDArray[np.int64], weights: NDArray[np.float64], size: int) -> tuple[NDArray[np.int64], Floats]:
    """The band of taps at `index` (n, t), all in 0..size-1 and close together, some of them on the same pixel."""
    count = index.shape[0]
    start = np.empty(count, np.int64)
    taps = 1
    for i in range(count):
        start[i] = index[i].min()
        taps = max(taps, index[i].max() - start[i] + 1)
    total = np.zeros((count, taps))
    for i in range(count):
        start[i] = min(start[i], size - taps)
        for t in range(index.shape[1]):
            total[i, index[i, t] - start[i]] += weights[i, t]
    return start, total.astype(np.float32)


@compiled
def _weighted_rows(source: Floats, first: int, weights: Floats, out: Floats) -> None:
    """out[x] = Σ_t weights[t] source[first + t, x], four rows at a time so that `out` is touched less often."""
    t = 0
    while t < weights.size:
        left = weights.size - t
        a = source[first + t]
        wa = weights[t]
        if left >= 4:
            b, c, d = source[first + t + 1], source[first + t + 2], source[first + t + 3]
            wb, wc, wd = weights[t + 1], weights[t + 2], weights[t + 3]
            if t == 0:
                for x in range(out.size):
                    out[x] = wa * a[x] + wb * b[x] + wc * c[x] + wd * d[x]
            else:
                for x in range(out.size):
                    out[x] += wa * a[x] + wb * b[x] + wc * c[x] + wd * d[x]
            t += 4
        elif t == 0:
            for x in range(out.size):
                out[x] = wa * a[x]
            t += 1
        else:
            for x in range(out.size):
                out[x] += wa * a[x]
            t += 1


@compiled
def sfc64_words(state: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """The next `out.size` words of SFC64 (Chris Doty-Humphrey) from `state` (4,), as numpy's SFC64 gives them."""
    a, b, c, counter = state[0], state[1], state[2], state[3]
    for i in range(out.size):
        word = a + b + counter
        counter += np.uint64(1)
        a = b ^ (b >> np.uint64(11))
        b = c + (c << np.uint64(3))
        c = ((c << np.uint64(24)) | (c >> np.uint64(40))) + word
        out[i] = word


@compiled
def look_up(table: Floats, index: NDArray[np.uint16], out: Floats) -> None:
    """out[i] = table[index[i]], table (65536,)."""
    for i in range(index.size):
        out[i] = table[index[i]]


@compiled
def interpolate(table: Floats, place: Floats, out: Floats) -> None:
    """out[i] = table at place[i], between its entries on a straight line; place in 0..len(table) - 2."""
    for i in range(place.size):
        below = np.int32(place[i])
        out[i] = table[below] + (place[i] - np.float32(below)) * (table[below + 1] - table[below])


@compiled
def add_looked_up(image: Floats, table: Floats, index: NDArray[np.uint16], scale: np.float32, out: Floats) -> None:
    """out = clip(image + scale · table[index]) in 0..255; image (N, 3), index (3 N,), or (N,): channels alike."""
    if index.size == image.size:
        flat, result = image.ravel(), out.ravel()
        for i in range(flat.size):
            result[i] = min(max(flat[i] + scale * table[index[i]], np.float32(0)), np.float32(255))
    else:
        for i in range(index.size):
            noise = scale * table[index[i]]
            for c in range(3):
                out[i, c] = min(max(image[i, c] + noise, np.float32(0)), np.float32(255))


@compiled
def quantize(image: Floats, levels: NDArray[np.uint8]) -> int:
    """Rounds image (N,) half to even into levels (N,), clipped to 0..255; returns how many levels occur."""
    for i in range(image.size):
        levels[i] = np.uint8(min(max(np.rint(image[i]), np.float32(0)), np.float32(255)))
    seen = np.zeros(256, np.uint8)
    for i in range(image.size):
        seen[levels[i]] = 1
    return seen.sum()


@compiled
def add_poisson(
    image: Floats,
    levels: NDArray[np.uint8],
    words: NDArray[np.uint32],
    alias_table: NDArray[np.uint32],
    first: Floats,
    unit: np.float32,
    scale: np.float32,
    out: Floats,
) -> None:
    """out = clip(image + scale · (first[level] + unit · count)) in 0..255, count from the alias table's row of `level`.

    image (N, 3); levels and words (3 N,), or (N,) for all channels alike; alias_table (256 · 256,), first (256,).
    """
    flat, result = image.ravel(), out.ravel()
    alike = levels.size < image.size
    for i in range(levels.size):
        level, word = np.uint32(levels[i]), words[i]
        entry = alias_table[(level << np.uint32(8)) | (word & np.uint32(255))]
        # the word's upper 24 bits against the threshold; the low bytes break ties, of which there is one in 2^24
        count = (word if word < entry else entry) & np.uint32(255)
        noise = scale * (first[level] + unit * np.float32(count))
        if alike:
            for c in range(3):
                out[i, c] = min(max(image[i, c] + noise, np.float32(0)), np.float32(255))
        else:
            result[i] = min(max(flat[i] + noise, np.float32(0)), np.float32(255))
