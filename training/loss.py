"""The denoiser's training objective (equation 8 of the paper, plus LPIPS of the decoded prediction).

Shapes: B batch, C latent channels, h x w latent size, H x W image size.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from resshift.process import q_sample, scale_input
from resshift.schedule import EtaSchedule
from training.engine import Autocast
from training.seeding import mix


class Decoder(Protocol):
    """What the loss needs of an autoencoder."""

    def unscale_latent(self, z: Tensor) -> Tensor:
        """What the denoiser works in to raw latent (B, C, h, w)."""

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Raw latent to image (B, 3, H, W)."""


@dataclass(frozen=True)
class DenoisingBatch:
    """One batch as the process sees it. x_0 and y_0 are scaled to what the denoiser works in."""

    x_0: Tensor
    """(B, C, h, w) the HQ latent (or the HQ image in pixel space)."""
    y_0: Tensor
    """(B, C, h, w) the latent of the upscaled LQ image."""
    lq: Tensor
    """(B, 3, h_lq, w_lq) in [-1, 1], the condition."""
    mask: Tensor | None
    """(B, 1, h_lq, w_lq) for inpainting."""
    hq: Tensor | None
    """(B, 3, H, W) in [-1, 1], for LPIPS."""
    t: Tensor
    """(B,) step indices."""
    noise: Tensor
    """(B, C, h, w) standard normal."""


@dataclass(frozen=True)
class DenoisingLoss:
    """Scalars of one batch; `total` is what gets differentiated."""

    total: Tensor
    mse: Tensor
    lpips: Tensor


def draw_noise(seed: int, step: int, slots: list[int], shape: tuple[int, ...], num_steps: int) -> tuple[Tensor, Tensor]:
    """Step indices t (B,) and noise (B, *shape) of the samples at `slots` of a global batch.

    Each sample has its own generator, seeded by (seed, step, slot): what a sample meets depends neither on how many
    processes share the batch nor on what was drawn before, so a resume needs no random state for it.
    """
    steps, noises = [], []
    for slot in slots:
        generator = torch.Generator().manual_seed(mix(seed, step, slot))
        steps.append(torch.randint(num_steps, (), generator=generator))
        noises.append(torch.randn(shape, generator=generator))
    return torch.stack(steps), torch.stack(noises)


def denoising_loss(
    denoiser: nn.Module,
    batch: DenoisingBatch,
    schedule: EtaSchedule,
    *,
    mse_weight: float,
    lpips_weight: float,
    lpips_samples: int,
    decoder: Decoder | None,
    perceptual: nn.Module | None,
    autocast: Autocast,
) -> DenoisingLoss:
    """MSE between x_0 and its prediction from x_t, and LPIPS between the decoded prediction and HQ.

    The decoder quantises the prediction first, with a straight-through gradient. `decoder` is None in pixel space,
    where the prediction already is an image; `perceptual` (LPIPS-vgg, images in [-1, 1]) is not called at weight 0, and
    otherwise on the first `lpips_samples` of the batch.
    """
    x_t = q_sample(batch.x_0, batch.y_0, batch.t, batch.noise, schedule)
    with autocast():
        predicted = denoiser(scale_input(x_t, batch.t, schedule), batch.t, batch.lq, batch.mask)
    predicted = predicted.float()
    mse = torch.mean((predicted - batch.x_0) ** 2)
    if lpips_weight == 0.0:
        return DenoisingLoss(mse_weight * mse, mse.detach(), torch.zeros_like(mse))
    assert perceptual is not None, "built whenever its weight is not 0"
    assert batch.hq is not None, "read whenever LPIPS is not left out"
    with autocast():
        judged = predicted[:lpips_samples]
        image = judged if decoder is None else decoder.decode(decoder.unscale_latent(judged))
        lpips = perceptual(image.float(), batch.hq[:lpips_samples]).mean()
    lpips = lpips.float()
    return DenoisingLoss(mse_weight * mse + lpips_weight * lpips, mse.detach(), lpips.detach())
