"""Encoder and decoder of the VQGAN (Esser et al. 2021): convolutional, with one attention block in the middle.

B batch, C channels, H height, W width. Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resshift.normalization import GroupNorm

_QUERIES = 512  # whose weights over all positions are held at once


def norm(channels: int) -> GroupNorm:
    """The normalisation of every block."""
    return GroupNorm(channels, eps=1e-6)


def silent(conv: nn.Conv2d) -> nn.Conv2d:
    """The last convolution of a residual branch, at zero: the untrained block adds nothing."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = silent(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.nin_shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)"""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


def _attend_by_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over (B, 1, N, C), some queries at a time: for bfloat16 on a CPU twice as fast as the fused kernel."""
    parts = [((part * q.shape[-1] ** -0.5) @ k.mT).softmax(-1) @ v for part in q.split(_QUERIES, dim=2)]
    return torch.cat(parts, dim=2)


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = silent(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        h = self.norm(x)
        # (B, 1, H*W, C); contiguous, or the fused kernel steps aside for one that stores all (H*W)^2 weights
        q, k, v = (conv(h).flatten(2).mT.contiguous()[:, None] for conv in (self.q, self.k, self.v))
        by_parts = h.device.type == "cpu" and h.dtype == torch.bfloat16 and not torch.is_grad_enabled()
        h = _attend_by_parts(q, k, v) if by_parts else F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Half the size by a strided 3x3 convolution that looks one pixel further to the right and bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)"""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size by nearest-neighbour interpolation and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)"""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """The blocks of one resolution."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, attention: bool, dropout: float) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * num_blocks
        self.block = nn.ModuleList(ResnetBlock(a, b, dropout) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(AttnBlock(out_channels) for _ in range(num_blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x


class _DownLevel(_Level):
    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, attention: bool, dropout: float, resample: bool
    ) -> None:
        super().__init__(in_channels, out_channels, num_blocks, attention, dropout)
        self.downsample = Downsample(out_channels) if resample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(super().forward(x))


class _UpLevel(_Level):
    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, attention: bool, dropout: float, resample: bool
    ) -> None:
        super().__init__(in_channels, out_channels, num_blocks, attention, dropout)
        self.upsample = Upsample(out_channels) if resample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(super().forward(x))


class _Middle(nn.Module):
    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, dropout)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Image to features at 1 / 2^(levels - 1) of its size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        num_blocks: Sequence[int],
        attention: Sequence[bool],
        dropout: float,
    ) -> None:
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            _DownLevel(widths[max(i - 1, 0)], widths[i], num_blocks[i], attention[i], dropout, resample=i != last)
            for i in range(last + 1)
        )
        self.mid = _Middle(widths[-1], dropout)
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / f, W / f)"""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """The mirror image of the encoder, with one more block per level."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        num_blocks: Sequence[int],
        attention: Sequence[bool],
        dropout: float,
    ) -> None:
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(in_channels, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1], dropout)
        self.up = nn.ModuleList(
            _UpLevel(widths[min(i + 1, last)], widths[i], num_blocks[i] + 1, attention[i], dropout, resample=i != 0)
            for i in range(last + 1)
        )
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h * f, w * f)"""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))
