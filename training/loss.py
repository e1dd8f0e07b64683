"""The denoiser's training objective (equation 8 of the paper, plus LPIPS of the decoded prediction).

Shapes: B batch, C latent channels, h x w latent size, H x W image size.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from resshift.process import q_sample, scale_input
from resshift.schedule import EtaSchedule
from training.engine import Autocast
from training.seeding import mix

CROP_STREAM = 1  # keeps the crops' randomness apart from the noise's


@dataclass(frozen=True)
class Crops:
    """A square of `size` latent pixels in each sample, by the (top, left) of its corner."""

    size: int
    corners: list[tuple[int, int]]

    def cut(self, x: Tensor, scale: int = 1) -> Tensor:
        """The squares of x (B, C, H, W), whose pixels are 1/scale of a latent's: (B, C, size * scale, size * scale)."""
        side = self.size * scale
        starts = [(top * scale, left * scale) for top, left in self.corners]
        return torch.stack(
            [image[:, top : top + side, left : left + side] for image, (top, left) in zip(x, starts, strict=True)]
        )


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
    crops: Crops | None
    """What part of each sample LPIPS looks at; None for all of it."""


@dataclass(frozen=True)
class DenoisingLoss:
    """Scalars of one batch, of which `total` gets differentiated, and the loss of each of its samples (B,)."""

    total: Tensor
    mse: Tensor
    lpips: Tensor
    per_sample: Tensor


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


def draw_crops(seed: int, step: int, slots: list[int], side: int, size: int) -> Crops:
    """Squares of `size` in latents of `side` x `side`; like the noise they follow from seed, step and slot alone."""
    corners = []
    for slot in slots:
        rng = np.random.Generator(np.random.SFC64(mix(seed, step, slot, CROP_STREAM)))
        corners.append((int(rng.integers(side - size + 1)), int(rng.integers(side - size + 1))))
    return Crops(size, corners)


def denoising_loss(
    denoiser: nn.Module,
    batch: DenoisingBatch,
    schedule: EtaSchedule,
    *,
    mse_weight: float,
    lpips_weight: float,
    decoder: Decoder | None,
    perceptual: nn.Module | None,
    autocast: Autocast,
) -> DenoisingLoss:
    """MSE between x_0 and its prediction from x_t, and LPIPS between the decoded prediction and HQ.

    The decoder quantises the prediction first, with a straight-through gradient. `decoder` is None in pixel space,
    where the prediction already is an image; `perceptual` (LPIPS-vgg, images in [-1, 1]) is not called at weight 0.
    autocast: what decoder and `perceptual` compute in; the denoiser, an engine, sees to itself.
    """
    x_t = q_sample(batch.x_0, batch.y_0, batch.t, batch.noise, schedule)
    predicted = denoiser(scale_input(x_t, batch.t, schedule), batch.t, batch.lq, batch.mask).float()
    mse = (predicted - batch.x_0).square().mean(dim=(1, 2, 3))
    if lpips_weight == 0.0:
        return _weighted(mse, torch.zeros_like(mse), mse_weight, lpips_weight)
    assert perceptual is not None, "built whenever its weight is not 0"
    assert batch.hq is not None, "read whenever LPIPS is not left out"
    judged, hq = predicted, batch.hq
    if batch.crops is not None:
        judged, hq = batch.crops.cut(judged), batch.crops.cut(hq, scale=hq.shape[2] // predicted.shape[2])
    with autocast():
        image = judged if decoder is None else decoder.decode(decoder.unscale_latent(judged))
        lpips = perceptual(image.float(), hq)
    return _weighted(mse, lpips.float(), mse_weight, lpips_weight)


def _weighted(mse: Tensor, lpips: Tensor, mse_weight: float, lpips_weight: float) -> DenoisingLoss:
    per_sample = mse_weight * mse + lpips_weight * lpips
    return DenoisingLoss(per_sample.mean(), mse.detach().mean(), lpips.detach().mean(), per_sample.detach())
