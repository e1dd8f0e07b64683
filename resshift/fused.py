"""Steps of the networks in a form that is faster to restore with and no good for training; the values are the same.

B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from resshift import swin_unet, vqgan_blocks


class FusedUpsample(nn.Module):
    """Nearest-neighbour enlargement and 3x3 convolution as one transposed convolution: 4 products instead of 9.

    Each pixel of the result sees 2x2 pixels of the input, each with the sum of the taps that fell on it.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        taps = conv.weight.detach().float().flip(2, 3)  # (C_out, C_in, 3, 3)
        kernel = taps.new_zeros(*taps.shape[:2], 4, 4)
        for row in range(2):
            for column in range(2):
                kernel[:, :, row : row + 3, column : column + 3] += taps
        self.weight = nn.Parameter(kernel.transpose(0, 1).contiguous(), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, 2H, 2W)"""
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


def fuse(network: nn.Module) -> None:
    """Replace what has a faster form, in place. The network's parameters get other names: save it before."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, swin_unet.Upsample | vqgan_blocks.Upsample):
                setattr(parent, name, FusedUpsample(child.conv))
