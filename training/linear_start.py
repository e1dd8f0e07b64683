"""Initial weights from which training need not learn colour first.

A VQGAN starts as a plain autoencoder (block averages down, smooth interpolation up), a denoiser as the linear
regression of x_0 on the LQ image.

From random weights the networks spend their first thousands of steps on learning colour at all, because every group
normalisation takes the mean out of what passes through it. Here each group carries every colour with both signs and two
opposite constants: its mean is then zero by construction and the constants dominate its scale, so that colour passes
unharmed, and silu(x) - silu(-x) = x makes the last layers linear. Residual branches start at zero. All this is only a
place to start from; nothing holds the weights there.

Needs at least 4 channels in each group of the last normalisations.
"""

import torch
from torch import Tensor, nn

from resshift.swin_unet import SwinUNet
from resshift.vqgan import VQGAN
from resshift.vqgan_blocks import AttnBlock, Downsample, ResnetBlock, Upsample

CONSTANT = 1.5
CHANNELS_PER_GROUP = 4
COLOUR_POWER = 0.2
"""Typical mean square of a colour in [-1, 1]."""


def can_start_linear(network: VQGAN | SwinUNet) -> bool:
    """Whether the network's groups are wide enough, and the colours have a way through it.

    A denoiser takes its LQ image at the size of x_t, and has no mask.
    """
    if isinstance(network, SwinUNet):
        return _wide(network.out[0]) and network.config.lq_factor == 1 and not network.config.cond_mask
    wide = _wide(network.encoder.norm_out) and _wide(network.decoder.norm_out)
    return wide and min(network.config.embed_dim, network.config.z_channels) >= 3


def _wide(norm: nn.Module) -> bool:
    assert isinstance(norm, nn.GroupNorm), "that is what stands there"
    return norm.num_channels // norm.num_groups >= CHANNELS_PER_GROUP


@torch.no_grad()
def start_linear(vqgan: VQGAN, randomness: float = 0.1) -> None:
    """Give a freshly built VQGAN the weights described above; `randomness` of its own ones is kept.

    Raises ValueError if `can_start_linear` is False.
    """
    if not can_start_linear(vqgan):
        raise ValueError("the autoencoder has fewer than 4 channels per group, or fewer than 3 latent channels")
    groups = vqgan.decoder.norm_out.num_groups
    average = torch.zeros(3, 3)
    average[:2, :2] = 0.25
    ramp = torch.tensor([1.0, 2.0, 1.0])
    smooth = ramp[:, None] * ramp / 16
    for module in vqgan.modules():
        if isinstance(module, ResnetBlock):
            nn.init.zeros_(module.conv2.weight)
            _zeroed_bias(module.conv2)
            if isinstance(module.nin_shortcut, nn.Conv2d):
                _carry(module.nin_shortcut, torch.ones(1, 1), groups, randomness)
        elif isinstance(module, AttnBlock):
            nn.init.zeros_(module.proj_out.weight)
            _zeroed_bias(module.proj_out)
        elif isinstance(module, Downsample):
            _carry(module.conv, average, groups, randomness)
        elif isinstance(module, Upsample):
            _carry(module.conv, smooth, groups, randomness)
    for half in (vqgan.encoder, vqgan.decoder):
        _spread(half.conv_in, groups, randomness)
        _gather(half.conv_out, groups, randomness, torch.eye(3))
    for pointwise in (vqgan.quant_conv, vqgan.post_quant_conv):
        pointwise.weight.mul_(randomness)
        _zeroed_bias(pointwise)
        pointwise.weight[:3, :3, 0, 0] += torch.eye(3)


@torch.no_grad()
def start_regression(unet: SwinUNet, lq: Tensor, x_0: Tensor, randomness: float = 0.1) -> None:
    """Give a freshly built denoiser weights that predict x_0 (B, C, H, W) linearly from lq (B, 3, H, W), pixelwise.

    The LQ image takes the shortest way: first convolution, outermost skip connection, last layers. Raises ValueError if
    `can_start_linear` is False.
    """
    if not can_start_linear(unet):
        raise ValueError("the denoiser has fewer than 4 channels per group, or its LQ condition another size than x_t")
    groups = unet.config.norm_groups
    conv_in, conv_out = unet.get_submodule("input_blocks.0.0"), unet.get_submodule("out.2")
    skip = unet.get_submodule(f"output_blocks.{len(unet.output_blocks) - 1}.0.skip_connection")
    assert isinstance(conv_in, nn.Conv2d), "see SwinUNet"
    assert isinstance(conv_out, nn.Conv2d), "see SwinUNet"
    assert isinstance(skip, nn.Conv2d), "its inputs are wider than its outputs"
    _spread(conv_in, groups, randomness, first=unet.config.in_channels)
    skip.weight.mul_(randomness)
    _zeroed_bias(skip)
    width = conv_in.out_channels
    skip.weight[:, -width:, 0, 0] += torch.eye(width)  # the skipped features stand behind those from below
    inputs = torch.cat([lq, torch.ones_like(lq[:, :1])], dim=1).permute(0, 2, 3, 1).flatten(0, 2).double()
    targets = x_0.permute(0, 2, 3, 1).flatten(0, 2).double()
    mixing = torch.linalg.solve(inputs.T @ inputs + 1e-6 * torch.eye(4), inputs.T @ targets).float()  # (3 + 1, C)
    _gather(conv_out, groups, randomness, mixing[:3].T)
    _zeroed_bias(conv_out).copy_(mixing[3])


def _role(channel: int, width: int, groups: int) -> tuple[int, int]:
    """(colour, kind) that a channel carries; kinds: 0 the colour, 1 its negative, 2 and 3 the two constants."""
    group, place = divmod(channel, width // groups)
    return group % 3, place % 4


def _zeroed_bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None, "all convolutions here have one"
    return conv.bias.zero_()


def _spread(conv: nn.Conv2d, groups: int, randomness: float, first: int = 0) -> None:
    """Colours (three input channels from `first` on) to channels by role."""
    conv.weight.mul_(randomness)
    bias = _zeroed_bias(conv)
    for channel in range(conv.out_channels):
        colour, kind = _role(channel, conv.out_channels, groups)
        if kind < 2:
            conv.weight[channel, first + colour, 1, 1] += (1.0, -1.0)[kind]
        else:
            bias[channel] = (CONSTANT, -CONSTANT)[kind - 2]


def _carry(conv: nn.Conv2d, kernel: Tensor, groups: int, randomness: float) -> None:
    """Every channel from one of the same role, through a spatial kernel."""
    conv.weight.mul_(randomness)
    _zeroed_bias(conv)
    sources: dict[tuple[int, int], list[int]] = {}
    for channel in range(conv.in_channels):
        sources.setdefault(_role(channel, conv.in_channels, groups), []).append(channel)
    for channel in range(conv.out_channels):
        same = sources[_role(channel, conv.out_channels, groups)]
        source = channel if conv.in_channels == conv.out_channels else same[channel % len(same)]
        conv.weight[channel, source] += kernel


def _gather(conv: nn.Conv2d, groups: int, randomness: float, mixing: Tensor) -> None:
    """Channels by role, normalised and through silu, back to colours, mixed by `mixing` (outputs, 3)."""
    conv.weight.mul_(randomness)
    _zeroed_bias(conv)
    scale = ((COLOUR_POWER + CONSTANT**2) / 2) ** 0.5  # what the group normalisation divided by
    for colour in range(3):
        for kind, sign in ((0, 1.0), (1, -1.0)):
            channels = [c for c in range(conv.in_channels) if _role(c, conv.in_channels, groups) == (colour, kind)]
            for channel in channels:
                conv.weight[: len(mixing), channel, 1, 1] += mixing[:, colour] * sign * scale / len(channels)
