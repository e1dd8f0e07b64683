"""Denoiser, autoencoder and schedule together turn a batch of LQ images of one size into HQ images.

B batch, h and w LQ height and width, s scale, f the autoencoder's downscale (1 without one), T number of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from resshift.geometry import Geometry
from resshift.images import fit_condition, fit_mask, upscale_lq
from resshift.padding import pad_bottom_right
from resshift.sampler import sample
from resshift.schedule import EtaSchedule
from resshift.swin_unet import SwinUNet
from resshift.vqgan import VQGAN


class BatchRestorer:
    """Restores batches of images of any one size at once; they are (B, 3, H, W) in [-1, 1].

    An inpainting mask is (B, 1, h, w) in [-1, 1], above 0 where the image is unknown.
    """

    def __init__(self, denoiser: SwinUNet, autoencoder: VQGAN | None, schedule: EtaSchedule, scale: int) -> None:
        """
        Args:
            autoencoder: None for a denoiser that works on pixels.
            schedule: the one the denoiser was trained with.
            scale: how many times larger than the LQ image the result is; 1 for deblurring, inpainting and the like.

        Raises:
            ValueError: the parts do not fit each other.
        """
        channels = 3 if autoencoder is None else autoencoder.config.embed_dim
        config = denoiser.config
        if (config.in_channels, config.out_channels) != (channels, channels):
            space = "pixel space has" if autoencoder is None else "the autoencoder's latents have"
            raise ValueError(
                f"denoiser has in_channels {config.in_channels} and out_channels {config.out_channels}; {space} "
                f"{channels} channels, give a denoiser for those"
            )
        if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
            raise ValueError(f"scale is {scale!r}; give a whole number of at least 1")
        if config.cond_mask and scale != 1:
            raise ValueError(f"scale is {scale}; a denoiser with cond_mask (inpainting) needs scale 1")
        self.denoiser = denoiser.eval()
        self.autoencoder = None if autoencoder is None else autoencoder.eval()
        self.schedule = schedule
        self.geometry = Geometry(scale, 1 if autoencoder is None else autoencoder.downscale)

    @property
    def device(self) -> torch.device:
        """Where the networks live."""
        return next(self.denoiser.parameters()).device

    @property
    def scale(self) -> int:
        """How many times larger than the LQ image the result is."""
        return self.geometry.scale

    def draw_noise(self, lq_shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
        """Standard normal noise for LQ images of shape (B, 3, h, w): (T+1, B, D, latent height, latent width).

        Drawing per image and stacking along B makes a batch independent of its composition.
        """
        batch, _, height, width = lq_shape
        latent = (self.geometry.latents(size) for size in (height, width))
        shape = (self.schedule.num_steps + 1, batch, self.denoiser.config.in_channels, *latent)
        return torch.randn(shape, generator=generator, device=generator.device)

    @torch.inference_mode()
    def restore_batch(self, lq: Tensor, noise: Tensor | torch.Generator, mask: Tensor | None = None) -> Tensor:
        """Restore lq (B, 3, h, w) in [-1, 1] at once, without tiles.

        Args:
            noise: of the shape that `draw_noise` gives, or a generator to draw it from.
            mask: (B, 1, h, w), for inpainting networks; known pixels are returned as they are.

        Returns:
            (B, 3, h * s, w * s) in [-1, 1], on the networks' device.

        Raises:
            ValueError: a shape does not fit, or the mask is missing or of no use.
        """
        self._check_inputs(lq, mask)
        if isinstance(noise, torch.Generator):
            noise = self.draw_noise(lq.shape, noise)
        height, width = lq.shape[2:]
        lq = lq.to(self.device, torch.float32)
        known = lq
        padded = self.geometry.padded(height), self.geometry.padded(width)
        conditions: dict[str, Tensor | None] = {}
        if mask is not None:
            mask = torch.where(mask.to(self.device) > 0, 1.0, -1.0)
            # What the network was trained with: nothing of what it has to invent.
            lq = torch.where(mask > 0, -1.0, lq)
            conditions["mask"] = self._condition_mask(pad_bottom_right(mask, *padded))
        lq = pad_bottom_right(lq, *padded)
        conditions["lq"] = fit_condition(lq, self._condition_size(padded))

        restored = self._sample(upscale_lq(lq, self.scale), noise, conditions).clamp(-1.0, 1.0)
        restored = restored[:, :, : height * self.scale, : width * self.scale]
        return restored if mask is None else torch.where(mask > 0, restored, known)

    def _sample(self, y_0_image: Tensor, noise: Tensor, conditions: dict[str, Tensor | None]) -> Tensor:
        """Encode, run the reverse chain, decode."""
        if self.autoencoder is None:
            return sample(self._clamped_denoiser, y_0_image, self.schedule, noise, **conditions)
        y_0 = self.autoencoder.scale_latent(self.autoencoder.encode(y_0_image))
        x_0 = sample(self.denoiser, y_0, self.schedule, noise, **conditions)
        return self.autoencoder.decode(self.autoencoder.unscale_latent(x_0))

    def _clamped_denoiser(self, x: Tensor, t: Tensor, **conditions: Tensor | None) -> Tensor:
        # Pixels, unlike latents, have a known range, and the method keeps every prediction inside it.
        return self.denoiser(x, t, **conditions).clamp(-1.0, 1.0)

    def _condition_size(self, lq_size: tuple[int, int]) -> tuple[int, int]:
        factor = self.denoiser.config.lq_factor
        height, width = (size * self.scale // self.geometry.downscale * factor for size in lq_size)
        return height, width

    def _condition_mask(self, mask: Tensor) -> Tensor:
        return fit_mask(mask, self._condition_size((mask.shape[2], mask.shape[3])))

    def _check_mask_given(self, given: bool) -> None:
        if given != self.denoiser.config.cond_mask:
            need = "was given to a model without" if given else "is missing; this model inpaints and needs one"
            raise ValueError(f"mask {need}")

    def _check_inputs(self, lq: Tensor, mask: Tensor | None) -> None:
        if lq.ndim != 4 or lq.shape[1] != 3 or min(lq.shape) < 1:
            raise ValueError(f"lq has shape {tuple(lq.shape)}; give (B, 3, h, w) of at least 1 pixel")
        self._check_mask_given(mask is not None)
        if mask is not None and tuple(mask.shape) != (len(lq), 1, *lq.shape[2:]):
            raise ValueError(f"mask has shape {tuple(mask.shape)}; give {(len(lq), 1, *lq.shape[2:])}, as the image")
