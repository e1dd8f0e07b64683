"""The group normalisation of all networks here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORM_GROUPS = 32
"""Groups of every normalisation in the published networks."""


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` with 32 groups (see `regroup`) that also takes groups of a single value, as a 1x1 image can have.

    torch refuses those as a likely mistake; they are normalised to 0, which is what the definition says.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(1, channels, eps=eps)  # a width that 32 does not divide may be regrouped
        self.num_groups = NORM_GROUPS

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def regroup(network: nn.Module, groups: int) -> None:
    """Let every normalisation of a network use `groups` groups; their weights are the same for any number.

    A narrow network needs fewer than 32: with one channel in a group, the normalisation takes the mean out of every
    channel, and colour with it.
    """
    for module in network.modules():
        if isinstance(module, GroupNorm):
            module.num_groups = groups
