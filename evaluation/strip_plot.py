"""Coordinates of a strip plot: a dot per image, a bar for the interval, a diamond for the mean."""

from collections.abc import Mapping
from typing import Any

import numpy as np

WIDTH, HEIGHT, MARGIN = 200.0, 40.0, 8.0  # the template's viewBox
MAX_DOTS = 300  # more cannot be told apart and make the file heavy


def strip_plot(values: np.ndarray, interval: Mapping[str, Any]) -> dict[str, Any]:
    """Place `values`, float (N,), and their interval {mean, low, high} on an axis that includes zero.

    Returns x positions `zero`, `mean`, `bar` (pair or None) and `dots` (list of (x, y)), in the units of the viewBox.
    """
    shown = np.sort(values)
    if len(shown) > MAX_DOTS:
        shown = shown[np.linspace(0, len(shown) - 1, MAX_DOTS).round().astype(int)]
    ends = [end for end in (interval["low"], interval["high"]) if end is not None]
    low, high = min(0.0, shown[0], *ends), max(0.0, shown[-1], *ends)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * (value - low) / span, 1)

    # Multiples of the golden ratio spread neighbours apart without any randomness.
    heights = [round(8 + (HEIGHT - 16) * ((number * 0.618034) % 1.0), 1) for number in range(len(shown))]
    return {
        "zero": place(0.0),
        "mean": place(interval["mean"]),
        "bar": (place(ends[0]), place(ends[1])) if len(ends) == 2 else None,
        "dots": [(place(float(value)), height) for value, height in zip(shown, heights, strict=True)],
    }
