"""How the networks compute when they restore: float32, or bfloat16 where the device computes it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from resshift.fused import fuse
from resshift.swin_unet import SwinUNet
from resshift.vqgan import VQGAN

PRECISIONS = ("auto", "float32", "bfloat16")


def use_exact_float32() -> None:
    """Let float32 mean float32 in this process: on a GPU, PyTorch lets convolutions round what they multiply to TF32,
    which keeps 10 of 23 bits. Figures and latents must not depend on the kind of device."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def make_repeatable() -> None:
    """Let networks give the same for the same input in this process: exact float32, and no convolution of cuDNN that
    adds in another order each time."""
    use_exact_float32()
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def choose_precision(asked: str, device: torch.device) -> str:
    """`float32` or `bfloat16`; `auto` means bfloat16 where the device computes it, which is faster at any width.

    Raises:
        ValueError: `asked` is none of PRECISIONS.
    """
    if asked not in PRECISIONS:
        raise ValueError(f"precision is '{asked}'; choose one of {', '.join(PRECISIONS)}")
    if asked != "auto":
        return asked
    return "bfloat16" if _computes_bfloat16(device) else "float32"


def prepare(denoiser: SwinUNet, autoencoder: VQGAN | None, precision: str) -> None:
    """Bring networks into the form that is fastest in `float32` or `bfloat16`, in place and for good.

    Two things stay in float32: the search for the nearest codes, because distances between near codes do not survive
    16-bit products, and the last convolutions, because bfloat16 knows 128 levels between 0.5 and 1, and images of
    16 bits have 16,384.
    """
    networks: list[nn.Module] = [denoiser] if autoencoder is None else [denoiser, autoencoder]
    for network in networks:
        fuse(network)
        network.to(torch.float32)
        if precision == "bfloat16":
            _halve(network)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class InFloat32(nn.Module):
    """A layer in float32 behind layers in bfloat16."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float())


def _halve(network: nn.Module) -> None:
    """To bfloat16, but for what has to stay in float32."""
    parent, name = (network.out, "2") if isinstance(network, SwinUNet) else (network.decoder, "conv_out")
    last, quantize = copy.deepcopy(getattr(parent, name)), copy.deepcopy(getattr(network, "quantize", None))
    network.to(torch.bfloat16)
    setattr(parent, name, InFloat32(last))
    if quantize is not None:
        network.quantize = quantize


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, rather than imitating them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
