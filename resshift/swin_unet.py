"""The denoiser: a U-Net of residual blocks with shifted-window attention, conditioned on step and LQ image.

B batch, C channels, H height, W width of the state x_t; the LQ image is `lq_factor` times as large.
Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resshift.normalization import GroupNorm, regroup
from resshift.padding import pad_bottom_right, round_up
from resshift.state_dict import load_strictly, official_weights
from resshift.swin_attention import SwinLayer
from resshift.swin_unet_config import SwinUNetConfig

DERIVED_BUFFERS = ("relative_position_index", "attn_mask")
"""Entries of official checkpoints that follow from the configuration and the input size; not parameters."""


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of step indices t (B,), as in DDPM with maximum period 10000: (B, dim) float32."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angle = t.float()[:, None] * frequency
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, dim % 2))


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection, modulated by the step embedding."""

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, dropout: float, scale_shift: bool) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(
            GroupNorm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, (2 if scale_shift else 1) * out_channels))
        last_conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        # A residual branch that starts at zero: the untrained block adds nothing.
        for parameter in last_conv.parameters():
            nn.init.zeros_(parameter)
        self.out_layers = nn.Sequential(GroupNorm(out_channels), nn.SiLU(), nn.Dropout(dropout), last_conv)
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (B, C_in, H, W), emb (B, emb_dim) -> (B, C_out, H, W)"""
        h = self.in_layers(x)
        modulation = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            h = torch.addcmul(shift, self.out_layers[0](h), 1 + scale)
            h = self.out_layers[1:](h)
        else:
            h = self.out_layers(h + modulation)
        return self.skip_connection(x) + h


class Downsample(nn.Module):
    """Half the size by a strided 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/2, W/2)"""
        return self.op(x)


class Upsample(nn.Module):
    """Twice the size by nearest-neighbour interpolation and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)"""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.ModuleList):
    """Modules in a row, of which the residual blocks also receive the step embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (B, C, H, W), emb (B, emb_dim) -> (B, C', H', W')"""
        for module in self:
            x = module(x, emb) if isinstance(module, ResBlock) else module(x)
        return x


def _lq_feature_extractor(config: SwinUNetConfig) -> tuple[nn.Module, int]:
    """The network that brings the LQ image (and mask) to the size of x_t, and its number of output channels."""
    channels = 4 if config.cond_mask else 3
    if config.lq_factor == 1:
        return nn.Identity(), channels
    layers: list[nn.Module] = []
    width = 16
    for _ in range(config.lq_factor.bit_length() - 1):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), Downsample(width, 2 * width)]
        width *= 2
        channels = width
    return nn.Sequential(*layers), channels


class SwinUNet(nn.Module):
    """Predicts x_0 from the scaled state x_t, the step index and the LQ image (f_theta of the paper).

    The memory format is the caller's choice: `unet.to(memory_format=torch.channels_last)` is the faster one on GPUs.
    """

    def __init__(self, config: SwinUNetConfig) -> None:
        super().__init__()
        self.config = config
        base = config.model_channels
        emb_dim = 4 * base
        widths = [base * mult for mult in config.channel_mult]
        last = len(widths) - 1

        def res_block(in_channels: int, out_channels: int) -> ResBlock:
            return ResBlock(in_channels, out_channels, emb_dim, config.dropout, config.use_scale_shift_norm)

        def swin_layer(channels: int, resolution: int) -> SwinLayer:
            return SwinLayer(
                channels,
                config.swin_embed_dim,
                resolution=resolution,
                window=config.window_size,
                depth=config.swin_depth,
                num_heads=config.swin_embed_dim // config.num_head_channels,
                mlp_ratio=config.mlp_ratio,
                dropout=config.dropout,
                patch_norm=config.patch_norm,
            )

        self.time_embed = nn.Sequential(nn.Linear(base, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))
        self.feature_extractor, lq_channels = _lq_feature_extractor(config)

        channels = widths[0]
        self.input_blocks = nn.ModuleList(
            [Stage([nn.Conv2d(config.in_channels + lq_channels, channels, 3, padding=1)])]
        )
        skips = [channels]
        resolution = config.image_size
        for level, width in enumerate(widths):
            for block in range(config.res_blocks_per_level[level]):
                stage = Stage([res_block(channels, width)])
                channels = width
                if resolution in config.attention_resolutions and block == 0:
                    stage.append(swin_layer(channels, resolution))
                self.input_blocks.append(stage)
                skips.append(channels)
            if level != last:
                self.input_blocks.append(Stage([Downsample(channels, channels)]))
                skips.append(channels)
                resolution //= 2

        self.middle_block = Stage(
            [res_block(channels, channels), swin_layer(channels, resolution), res_block(channels, channels)]
        )

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for block in range(config.res_blocks_per_level[level] + 1):
                stage = Stage([res_block(channels + skips.pop(), width)])
                channels = width
                if resolution in config.attention_resolutions and block == 0:
                    stage.append(swin_layer(channels, resolution))
                if level and block == config.res_blocks_per_level[level]:
                    stage.append(Upsample(channels))
                    resolution *= 2
                self.output_blocks.append(stage)

        self.out = nn.Sequential(GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, config.out_channels, 3, padding=1))
        regroup(self, config.norm_groups)

    @classmethod
    def from_official(cls, params: Mapping[str, Any], state_dict: Mapping[str, Any]) -> SwinUNet:
        """Rebuild an official network: `params` is the YAML's `model.params`, `state_dict` the checkpoint.

        The derived buffers of the checkpoint (attention masks, position indices) are ignored.

        Returns:
            The network in evaluation mode, float32, with a copy of the weights.

        Raises:
            ValueError: a parameter is unknown or unsupported, or a weight is missing, unexpected or of another shape.
        """
        config = SwinUNetConfig.from_official(params)
        with torch.device("meta"):
            unet = cls(config)
        weights = {k: v for k, v in official_weights(state_dict).items() if k.rpartition(".")[2] not in DERIVED_BUFFERS}
        return load_strictly(unet, weights, "the SwinUNet's state dict").eval()

    def forward(self, x: Tensor, t: Tensor, lq: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predict x_0.

        Args:
            x: (B, in_channels, H, W), the scaled state; any H and W of at least 1.
            t: (B,) step indices 0..T-1.
            lq: (B, 3, H * f, W * f), the LQ image in [-1, 1], with f = `config.lq_factor`.
            mask: (B, 1, H * f, W * f) in [-1, 1], 1 where the image is unknown; for networks with `cond_mask` only.

        Returns:
            (B, out_channels, H, W)

        Raises:
            ValueError: a tensor does not have the shape above.
        """
        self._check_inputs(x, t, lq, mask)
        height, width = x.shape[2:]
        multiple, factor = self.config.size_multiple, self.config.lq_factor
        padded = round_up(height, multiple), round_up(width, multiple)
        condition = lq if mask is None else torch.cat([lq, mask.to(lq.dtype)], dim=1)

        x = pad_bottom_right(x, *padded)
        condition = pad_bottom_right(condition, padded[0] * factor, padded[1] * factor)
        dtype = next(self.parameters()).dtype
        features = self.feature_extractor(condition.to(dtype))
        h = torch.cat([x.to(dtype), features], dim=1)
        emb = self.time_embed(timestep_embedding(t, self.config.model_channels).to(dtype))

        skips = []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)[:, :, :height, :width].to(x.dtype)

    def _check_inputs(self, x: Tensor, t: Tensor, lq: Tensor, mask: Tensor | None) -> None:
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels:
            raise ValueError(f"x has shape {tuple(x.shape)}; give (B, {config.in_channels}, H, W)")
        batch, _, height, width = x.shape
        size = (height * config.lq_factor, width * config.lq_factor)
        if tuple(t.shape) != (batch,):
            raise ValueError(f"t has shape {tuple(t.shape)}; give one step index per sample, shape ({batch},)")
        if tuple(lq.shape) != (batch, 3, *size):
            raise ValueError(
                f"lq has shape {tuple(lq.shape)}; give {(batch, 3, *size)}, {config.lq_factor} times the size of x"
            )
        if (mask is not None) != config.cond_mask:
            need = "is missing; this network was built with" if config.cond_mask else "was given to a network without"
            raise ValueError(f"mask {need} cond_mask")
        if mask is not None and tuple(mask.shape) != (batch, 1, *size):
            raise ValueError(f"mask has shape {tuple(mask.shape)}; give {(batch, 1, *size)}")
