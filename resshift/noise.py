"""Sampling noise as a function of place: the same latent gets the same noise, whatever part of the image is restored.

T number of steps, C latent channels, h and w latent height and width.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

BLOCK = 64
"""Side of the squares in which noise is drawn, in latents. Part of what a seed means: never change it."""


class NoiseField:
    """Standard normal noise over an endless plane of latents, of which any window can be had.

    The plane is cut into squares, each with a generator seeded by (seed, row, column); nothing is kept in memory, and
    tiles that overlap agree on the noise they share.
    """

    def __init__(self, seed: int, num_steps: int, channels: int) -> None:
        self.seed = seed
        self.num_steps = num_steps
        self.channels = channels

    def window(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The noise of `height` x `width` latents from (top, left): (T+1, 1, C, height, width) float32 on the CPU."""
        out = torch.empty(self.num_steps + 1, 1, self.channels, height, width)
        for row in range(top // BLOCK, -(-(top + height) // BLOCK)):
            for column in range(left // BLOCK, -(-(left + width) // BLOCK)):
                y, x = row * BLOCK - top, column * BLOCK - left  # of the square, in the window
                inside = (slice(max(0, -y), height - y), slice(max(0, -x), width - x))
                part = self._square(row, column)[..., inside[0], inside[1]]
                y, x = max(0, y), max(0, x)
                out[..., y : y + part.shape[-2], x : x + part.shape[-1]] = part
        return out

    def _square(self, row: int, column: int) -> Tensor:
        name = f"{self.seed}/{row}/{column}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1)
        return torch.randn(self.num_steps + 1, 1, self.channels, BLOCK, BLOCK, generator=generator)
