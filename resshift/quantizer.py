"""Vector quantisation of latents with a learned codebook (VQ-VAE, van den Oord et al. 2017).

B batch, D latent channels, h and w latent height and width, N = B * h * w vectors, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MAX_DISTANCES = 2**24
"""Distances held at once (64 MiB in float32); a large image against a large codebook is searched in parts."""


def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest row of codebook (K, D) for each of vectors (N, D): (N,) int64."""
    # |v|^2 is the same for all codes of a vector, so the order is that of |e|^2 - 2 v e.
    squared = codebook.square().sum(1)
    rows = max(1, _MAX_DISTANCES // len(codebook))
    return torch.cat([torch.addmm(squared, part, codebook.T, alpha=-2.0).argmin(1) for part in vectors.split(rows)])


class VectorQuantizer(nn.Module):
    """Replaces each latent vector by the nearest one of a codebook."""

    def __init__(self, num_codes: int, dim: int, beta: float = 0.25) -> None:
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(num_codes, dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / num_codes, 1.0 / num_codes)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise z (B, D, h, w).

        Returns:
            z_q (B, D, h, w), whose gradient goes to z unchanged (straight-through);
            indices (B * h * w,) int64 in raster order of each image in turn;
            the loss that pulls z to its code and, weighted by beta, the code to z (the weighting of the published
            autoencoders, reverse to the VQ-VAE paper's): a scalar.
        """
        codebook = self.embedding.weight
        vectors = z.permute(0, 2, 3, 1).flatten(0, 2)  # (N, D)
        # Distances between near codes do not survive 16-bit products.
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            indices = nearest_codes(vectors.float(), codebook.float())
        z_q = self.embedding(indices).view(len(z), *z.shape[2:], -1).permute(0, 3, 1, 2)
        loss = (z_q.detach() - z).square().mean() + self.beta * (z_q - z.detach()).square().mean()
        return z + (z_q - z).detach(), indices, loss
