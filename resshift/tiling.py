"""Cutting a large image into overlapping tiles and blending what becomes of them, from top to bottom.

All lengths and offsets are in latent units, the coarsest grid on which LQ image, latent and result agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

TILES_AT_ONCE = {"cuda": 4, "cpu": 1}
"""Device -> how many tiles go through the networks together; a CPU gains nothing from more."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis."""

    start: int
    """First unit."""

    length: int
    """Number of units."""

    def scaled(self, factor: int, end: int | None = None) -> slice:
        """The same stretch where a unit is `factor` elements long, cut off at `end`."""
        stop = (self.start + self.length) * factor
        return slice(self.start * factor, stop if end is None else min(stop, end))


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles that cover an axis, each `tile - overlap` after the one before, but the last flush with the end."""
    if length <= tile:
        return [Span(0, length)]
    starts = list(range(0, length - tile, tile - overlap))
    return [Span(start, tile) for start in [*starts, length - tile]]


def batches(columns: Sequence[slice], size: int) -> Iterator[list[slice]]:
    """Neighbouring stretches of one length, up to `size` at a time: what can go through the networks together."""
    for _, group in groupby(columns, key=lambda column: column.stop - column.start):
        same = list(group)
        yield from (same[first : first + size] for first in range(0, len(same), size))


def blend_weights(stretches: Sequence[slice], overlap: int) -> list[Tensor]:
    """The weight of each tile along one axis, (length,) each: falling linearly towards a neighbour over `overlap`.

    Where tiles overlap their weights add up to 1, so that a weighted sum is a mean.
    """
    ramps = []
    for stretch in stretches:
        distance = torch.arange(1, stretch.stop - stretch.start + 1, dtype=torch.float64)
        ramps.append(torch.minimum(distance, distance.flip(0)).clamp(max=overlap + 1))
    total = torch.zeros(stretches[-1].stop, dtype=torch.float64)
    for stretch, ramp in zip(stretches, ramps, strict=True):
        total[stretch] += ramp
    return [(ramp / total[stretch]).float() for stretch, ramp in zip(stretches, ramps, strict=True)]


class Band:
    """The strip of the result on which tiles are still being added: as high as a tile, as wide as the image."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        self.top = 0
        self.total = torch.zeros(3, height, width, device=device)

    def add(self, tile: Tensor, rows: slice, columns: slice, row_weight: Tensor, column_weight: Tensor) -> None:
        """Add a tile (3, h, w) with the weights (h,) and (w,) where `rows` and `columns` of the result say."""
        weight = row_weight.to(tile.device)[:, None] * column_weight.to(tile.device)[None, :]
        self.total[:, rows.start - self.top : rows.stop - self.top, columns] += tile * weight

    def release(self, until: int) -> Tensor:
        """Take out the rows above `until`, which no further tile will touch: (3, n, width)."""
        count = until - self.top
        done = self.total[:, :count].clone()
        kept = self.total.shape[1] - count
        self.total[:, :kept] = self.total[:, count:].clone()
        self.total[:, kept:] = 0
        self.top = until
        return done
