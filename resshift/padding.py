"""Padding on the bottom and right, so that networks that need multiples of something take any size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_bottom_right(x: Tensor, height: int, width: int) -> Tensor:
    """Extend x (B, C, h, w) to (B, C, height, width) by mirroring, or by repeating the edge where x is too small.

    Returns x itself when it has that size already.
    """
    for size, dim in ((height, 2), (width, 3)):
        extra = size - x.shape[dim]
        if extra == 0:
            continue
        mode = "reflect" if extra < x.shape[dim] else "replicate"
        x = F.pad(x, (0, 0, 0, extra) if dim == 2 else (0, extra, 0, 0), mode=mode)
    return x


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple
