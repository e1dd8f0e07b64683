"""Cutting a large image into overlapping tiles and blending what becomes of them.

All lengths and offsets are in latent units, the coarsest grid on which LQ image, latent and result agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """One tile along one axis."""

    start: int
    """First unit."""

    length: int
    """Number of units."""

    def scaled(self, factor: int) -> slice:
        """The same stretch where a unit is `factor` elements long."""
        return slice(self.start * factor, (self.start + self.length) * factor)


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles that cover an axis, each `tile - overlap` after the one before, but the last flush with the end."""
    if length <= tile:
        return [Span(0, length)]
    starts = list(range(0, length - tile, tile - overlap))
    return [Span(start, tile) for start in [*starts, length - tile]]


def tiles(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[Span, Span]]:
    """(rows, columns) of every tile of a (height, width) canvas, in raster order."""
    for rows in spans(height, tile, overlap):
        for columns in spans(width, tile, overlap):
            yield rows, columns


def _ramp(length: int, overlap: int) -> Tensor:
    """(length,) weights that rise over `overlap` elements at both ends, never 0."""
    distance = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(distance, distance.flip(0)).clamp(max=overlap + 1)


class Blend:
    """Weighted mean of overlapping tiles: a tile's weight falls linearly towards its edges."""

    def __init__(self, height: int, width: int, overlap: int, device: torch.device) -> None:
        """`height`, `width` and `overlap` in pixels of the result."""
        self.overlap = overlap
        self.total = torch.zeros(1, 3, height, width, device=device)
        self.weight = torch.zeros(1, 1, height, width, device=device)

    def add(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Put a tile (1, 3, h, w) where `rows` and `columns` say."""
        height, width = tile.shape[2:]
        weight = (_ramp(height, self.overlap)[:, None] * _ramp(width, self.overlap)[None, :]).to(tile.device)
        self.total[:, :, rows, columns] += tile * weight
        self.weight[:, :, rows, columns] += weight

    def result(self) -> Tensor:
        """(1, 3, height, width)"""
        return self.total / self.weight
