"""Shifted-window attention (Swin Transformer, Liu et al. 2021) as ResShift uses it inside its U-Net.

B batch, C channels (D inside a layer), H height, W width, w window side, N = w * w tokens of a window,
M number of windows of one image, K heads, E channels per head (D = K * E).
Feature maps are (B, C, H, W) in any memory format; in channels_last their (B, H, W, C) view costs nothing.
Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resshift.normalization import GroupNorm
from resshift.padding import round_up

MOST_AT_ONCE = 65535

MASKED = -100.0
"""Added to the logits of pairs that must not see each other; finite, as in the method, so that no row is all -inf."""


def _windows(label: Tensor, window: int) -> Tensor:
    """Cut a (height, width) map into windows: (M, w, w)."""
    return label.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).flatten(0, 1)


def _seams(padded: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(padded,) int64 along one axis: 1 and 2 for the two sides of the seam in the last window of a shifted map."""
    seam = torch.zeros(padded, dtype=torch.int64, device=device)
    if shift:
        seam[padded - window :] = 1
        seam[padded - shift :] = 2
    return seam


def _is_padding(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(padded size,) bool along one axis of a shifted map: which positions only complete the last window."""
    padded = round_up(size, window)
    return (torch.arange(padded, device=device) + shift) % padded >= size


def _window_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(M, N, N) float32: 0 where two tokens of a window may see each other, MASKED elsewhere."""
    rows, columns = (_is_padding(size, window, shift, device) for size in (height, width))
    padding = rows[:, None] | columns[None, :]
    # Not the mask of the Swin paper: the published networks were trained with one that parts only the last row of
    # windows, and there by column. Their weights, and every golden array, belong to that mask.
    seams = _seams(padding.shape[0], window, shift, device)[:, None].expand_as(padding)
    seams = _windows(seams, window).transpose(1, 2)
    group = (2 * seams + _windows(padding.long(), window)).flatten(1)  # (M, N)
    return torch.where(group[:, :, None] == group[:, None, :], 0.0, MASKED)


@lru_cache(maxsize=16)  # of two sizes of image: large ones have masks of 64 MiB
def _cached_window_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    # A tensor made in inference mode could never be used for training afterwards.
    with torch.inference_mode(False):
        return _window_mask(height, width, window, shift, device)


def window_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor | None:
    """Additive attention mask of a (height, width) feature map, or None where all tokens of a window see each other.

    It parts (some of) what only the cyclic shift brought together, and hides the padding that completes the last
    windows of a size that the window does not divide. Returns (M, N, N) float32.
    """
    if shift == 0 and height % window == 0 and width % window == 0:
        return None
    if torch.compiler.is_compiling():
        return _window_mask(height, width, window, shift, device)
    return _cached_window_mask(height, width, window, shift, device)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of (B, K, N, E) with bias (1, K, N, N) added to the logits; whatever the B and K, which a kernel of
    CUDA counts in dimensions of a grid that end at 65535."""
    for dim in (0, 1):
        if q.shape[dim] > MOST_AT_ONCE:
            split = [x.split(MOST_AT_ONCE, dim=dim) for x in (q, k, v)]
            biases = bias.split(MOST_AT_ONCE, dim=1) if dim == 1 else [bias] * len(split[0])
            return torch.cat([_attend(*part) for part in zip(*split, biases, strict=True)], dim=dim)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def relative_position_index(window: int) -> Tensor:
    """(N * N,) int64: row of the (2w-1)^2 bias table that belongs to each (query, key) pair of a window."""
    axis = torch.arange(window, device="cpu")
    row, column = axis.repeat_interleave(window), axis.repeat(window)  # (N,) each
    row_offset = row[:, None] - row[None, :] + window - 1
    column_offset = column[:, None] - column[None, :] + window - 1
    return (row_offset * (2 * window - 1) + column_offset).flatten()


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows of (w, w) tokens, with a learned bias per relative position."""

    def __init__(self, dim: int, window: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.window = window
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.register_buffer("position_index", relative_position_index(window), persistent=False)
        self.position_index: Tensor
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend inside each window of x (B, H, W, D); H and W are multiples of w, mask is (M, N, N) or None."""
        batch, height, width, dim = x.shape
        w, heads = self.window, self.num_heads
        rows, columns, tokens = height // w, width // w, w * w

        qkv = self.qkv(x).view(batch, rows, w, columns, w, 3, heads, dim // heads)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7)  # (3, B, rows, columns, K, w, w, E)
        bias = self.relative_position_bias_table[self.position_index].view(tokens, tokens, heads).permute(2, 0, 1)
        if mask is None:  # one bias for all windows: windows go to the batch
            bias = bias[None].contiguous()  # (1, K, N, N); CUDA's fused kernels take no other
        else:  # one bias per window: windows go to the heads, so that images still share it by broadcasting
            bias = (bias + mask[:, None].to(bias.dtype)).flatten(0, 1)[None]  # (1, M * K, N, N)
        q, k, v = qkv.reshape(3, -1, bias.shape[1], tokens, dim // heads).unbind(0)
        out = _attend(q, k, v, bias.to(q.dtype))

        out = out.view(batch, rows, columns, heads, w, w, dim // heads).permute(0, 1, 4, 2, 5, 3, 6)
        return self.proj_drop(self.proj(out.reshape(batch, height, width, dim)))


class Mlp(nn.Module):
    """Two pointwise layers with GELU between them, on (B, D, H, W)."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden_dim, kernel_size=1)
        self.fc2 = nn.Conv2d(hidden_dim, dim, kernel_size=1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W)"""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class SwinBlock(nn.Module):
    """Window attention and an MLP, each behind a GroupNorm and a residual connection."""

    def __init__(self, dim: int, window: int, shift: int, num_heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = GroupNorm(dim)
        self.attn = WindowAttention(dim, window, num_heads, dropout)
        self.norm2 = GroupNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W), any H and W."""
        x = x + self._attend(self.norm1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        """Attention in shifted windows on (B, H, W, D)."""
        height, width = x.shape[1:3]
        bottom, right = -height % self.window, -width % self.window
        mask = window_mask(height, width, self.window, self.shift, x.device)
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = self.attn(x, mask)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class _Projection(nn.Module):
    """A pointwise convolution, optionally normalised: in and out of a Swin layer's own width."""

    def __init__(self, in_channels: int, out_channels: int, normalised: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.norm = GroupNorm(out_channels) if normalised else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class SwinLayer(nn.Module):
    """`depth` Swin blocks at width `dim`, every second one shifted by half a window, between two projections.

    A feature map no larger than a window (by `resolution`, the side the network was configured for) is one window
    that is never shifted, as in the method.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        resolution: int,
        window: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        dropout: float,
        patch_norm: bool,
    ) -> None:
        super().__init__()
        one_window = resolution <= window
        side = min(window, resolution)
        self.patch_embed = _Projection(channels, dim, patch_norm)
        self.blocks = nn.Sequential(
            *(
                SwinBlock(dim, side, 0 if one_window or i % 2 == 0 else side // 2, num_heads, mlp_ratio, dropout)
                for i in range(depth)
            )
        )
        self.patch_unembed = _Projection(dim, channels, patch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        return self.patch_unembed(self.blocks(self.patch_embed(x)))
