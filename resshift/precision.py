"""How the networks compute when they restore: float32, or bfloat16 where the machine and the model gain from it."""

from __future__ import annotations

import torch
from torch import nn

from resshift.fused import fuse
from resshift.swin_unet import SwinUNet
from resshift.vqgan import VQGAN

PRECISIONS = ("auto", "float32", "bfloat16")
WIDE = 128
"""Channels of the denoiser's first level from which bfloat16 is faster on a CPU (benchmarks/restore.md)."""


def choose_precision(asked: str, device: torch.device, denoiser: SwinUNet) -> str:
    """`float32` or `bfloat16`; `auto` means the faster one for this network on this device.

    Raises:
        ValueError: `asked` is none of PRECISIONS.
    """
    if asked not in PRECISIONS:
        raise ValueError(f"precision is '{asked}'; choose one of {', '.join(PRECISIONS)}")
    if asked != "auto":
        return asked
    wide = denoiser.config.model_channels >= WIDE
    return "bfloat16" if _computes_bfloat16(device) and (wide or device.type == "cuda") else "float32"


def prepare(denoiser: SwinUNet, autoencoder: VQGAN | None, precision: str) -> None:
    """Bring networks into the form that is fastest in `float32` or `bfloat16`, in place and for good.

    The search for the nearest codes stays in float32: distances between near codes do not survive 16-bit products.
    """
    networks: list[nn.Module] = [denoiser] if autoencoder is None else [denoiser, autoencoder]
    for network in networks:
        fuse(network)
        network.to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if autoencoder is not None:
        autoencoder.quantize.float()


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, rather than imitating them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
