"""Sizes: how the pixels of an LQ image, those of the result and the latents between them belong together.

s scale (result / LQ), f downscale of the autoencoder (result / latent). A unit is the shortest LQ length that gives
whole latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from resshift.padding import round_up
from resshift.tiling import spans

MIN_LATENT = 8
"""Smaller images are completed to this many latents per side, or the networks would have nothing but edges to see."""


@dataclass(frozen=True)
class Grid:
    """The tiles of one image as stretches along both axes, and how far neighbours overlap; in pixels of the result."""

    rows: list[slice]
    columns: list[slice]
    overlap: int


@dataclass(frozen=True)
class Geometry:
    """The sizes that follow from s and f."""

    scale: int
    """s"""

    downscale: int
    """f, 1 without an autoencoder"""

    @property
    def unit(self) -> int:
        """LQ lengths are completed to a multiple of this many pixels, so that f divides those of the result."""
        return self.downscale // math.gcd(self.downscale, self.scale)

    @property
    def unit_latents(self) -> int:
        """Latents of one unit."""
        return self.unit * self.scale // self.downscale

    def padded(self, length: int) -> int:
        """The LQ length that the networks see for an image of this LQ length."""
        return max(round_up(length, self.unit), -(-MIN_LATENT // self.unit_latents) * self.unit)

    def latents(self, length: int) -> int:
        """Latents along an LQ length, completion included."""
        return self.padded(length) * self.scale // self.downscale

    def grid(self, height: int, width: int, tile_size: int, tile_overlap: int) -> Grid:
        """The tiles of an LQ image of (height, width); tile_size and tile_overlap in pixels of the result."""
        pixels = self.unit * self.scale
        tile = max(-(-MIN_LATENT // self.unit_latents), tile_size // pixels)
        overlap = min(-(-tile_overlap // pixels), tile // 2)

        def axis(size: int) -> list[slice]:
            found = spans(self.padded(size) // self.unit, tile, overlap)
            return [span.scaled(pixels, end=size * self.scale) for span in found]

        return Grid(axis(height), axis(width), overlap * pixels)
