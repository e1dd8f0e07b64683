"""Paired bootstrap: how sure a mean difference over a test set is.

Two methods are measured on the same images, so what is resampled is the per-image difference. Images that stem from
one photo (several degradations of it) rise and fall together; given their groups, whole photos are resampled, which
keeps the interval honest where resampling single images would make it too narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES_PER_CHUNK = 500  # bounds memory: at most 500 x images index values at once


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval [low, high] over `num_images` values in `num_groups` independent groups."""

    mean: float
    low: float
    high: float
    num_images: int
    num_groups: int


def bootstrap_mean(
    values: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean of `values`, float (N,), finite.

    For a paired comparison pass the differences. `groups` (N labels) are resampled as wholes. A single group has no
    spread to resample: its interval is unbounded, so that no decision can rest on it. Raises ValueError for no value.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values: array of shape {values.shape}; give at least one value in one dimension")
    if not np.isfinite(values).all():
        raise ValueError("values: hold NaN or infinity; leave out what was not measured")
    sums, counts = _group_totals(values, groups)
    mean = float(values.mean())
    if len(sums) == 1:
        return Interval(mean, float("-inf"), float("inf"), values.size, 1)
    rng = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, RESAMPLES_PER_CHUNK):
        stop = min(start + RESAMPLES_PER_CHUNK, num_resamples)
        drawn = rng.integers(0, len(sums), size=(stop - start, len(sums)))
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(mean, float(low), float(high), values.size, len(sums))


def _group_totals(values: np.ndarray, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group, in the order in which groups first appear."""
    if groups is None:
        return values, np.ones_like(values)
    if len(groups) != values.size:
        raise ValueError(f"groups: {len(groups)} labels for {values.size} values; give one label per value")
    index = {label: number for number, label in enumerate(dict.fromkeys(groups))}
    number_of = np.array([index[label] for label in groups])
    return np.bincount(number_of, weights=values), np.bincount(number_of).astype(np.float64)
