"""A trained model in use: denoiser, autoencoder and schedule together turn an LQ image into an HQ one.

B batch, h and w LQ height and width, s scale, f the autoencoder's downscale (1 without one), T number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resshift.bundle import Bundle, read_bundle, write_bundle
from resshift.geometry import Geometry
from resshift.images import (
    check_image,
    fit_condition,
    fit_mask,
    image_to_tensor,
    mask_to_tensor,
    tensor_to_image,
    unknown_pixels,
    upscale_lq,
)
from resshift.noise import NoiseField
from resshift.padding import pad_bottom_right
from resshift.precision import choose_precision, prepare
from resshift.sampler import sample
from resshift.schedule import EtaSchedule
from resshift.swin_unet import SwinUNet
from resshift.tiling import Band, batches, blend_weights
from resshift.vqgan import VQGAN


class Restorer:
    """Restores images of any size; large ones tile by tile.

    Images inside are (B, 3, H, W) in [-1, 1]. An inpainting mask is (B, 1, h, w) in [-1, 1], above 0 where the image
    is unknown.
    """

    def __init__(
        self,
        denoiser: SwinUNet,
        autoencoder: VQGAN | None,
        schedule: EtaSchedule,
        scale: int,
        task: str = "super_resolution",
        *,
        tile_size: int = 512,
        tile_overlap: int = 64,
        batch_size: int = 1,
    ) -> None:
        """
        Args:
            autoencoder: None for a denoiser that works on pixels.
            schedule: the one the denoiser was trained with.
            scale: how many times larger than the LQ image the result is; 1 for deblurring, inpainting and the like.
            tile_size: side of the largest piece restored at once, in pixels of the result.
            tile_overlap: how far neighbouring tiles overlap, in pixels of the result; below half of tile_size.
            batch_size: how many tiles of an image go through the networks together.

        Raises:
            ValueError: the parts do not fit each other, or a number is out of range.
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
        if tile_size < 1 or not 0 <= tile_overlap <= tile_size // 2:
            raise ValueError(f"tile_overlap is {tile_overlap}; give 0 to half of tile_size ({tile_size})")
        self.denoiser = denoiser.eval()
        self.autoencoder = None if autoencoder is None else autoencoder.eval()
        self.schedule = schedule
        self.geometry = Geometry(scale, 1 if autoencoder is None else autoencoder.downscale)
        self.task = task
        self.tile_size = tile_size
        self.tile_overlap = tile_overlap
        self.batch_size = batch_size
        self.is_prepared = False

    @property
    def device(self) -> torch.device:
        """Where the networks live."""
        return next(self.denoiser.parameters()).device

    @property
    def scale(self) -> int:
        """How many times larger than the LQ image the result is."""
        return self.geometry.scale

    @property
    def precision(self) -> str:
        """What the networks compute in: `float32` or `bfloat16`."""
        return str(next(self.denoiser.parameters()).dtype).removeprefix("torch.")

    def prepare(self, precision: str = "auto") -> Restorer:
        """Bring the networks into the form that restores fastest, in `float32`, `bfloat16`, or whichever suits better.

        `auto` takes bfloat16 where the device computes it. It is for good: bfloat16 rounds the weights, and a
        prepared restorer cannot be saved. Returns itself. Raises ValueError for any other word.
        """
        prepare(self.denoiser, self.autoencoder, choose_precision(precision, self.device))
        self.is_prepared = True
        return self

    def to(self, device: torch.device | str) -> Restorer:
        """Move the networks; returns itself."""
        self.denoiser.to(device)
        if self.autoencoder is not None:
            self.autoencoder.to(device)
        return self

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

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, seed: int = 0, mask: np.ndarray | None = None) -> np.ndarray:
        """Restore one RGB image (h, w, 3), uint8 or uint16, of any size; the same seed gives the same result.

        Args:
            mask: for inpainting networks, (h, w): uint8 above 127, or bool true, where the image is unknown.

        Returns:
            RGB (h * s, w * s, 3) of the image's dtype. Pixels that the mask leaves alone are those of the image.
        """
        return np.concatenate(list(self.restore_rows(image, seed, mask)))

    @torch.inference_mode()
    def restore_images(
        self, images: Sequence[np.ndarray], seeds: Sequence[int], masks: Sequence[np.ndarray | None]
    ) -> list[np.ndarray]:
        """Restore images of one size and dtype together: each as the restorer does alone with its seed and mask.

        Images of one tile go through the networks in one batch, which may round sums differently; larger ones one after
        the other.
        """
        height, width = images[0].shape[:2]
        grid = self.geometry.grid(height, width, self.tile_size, self.tile_overlap)
        if len(images) == 1 or len(grid.rows) * len(grid.columns) > 1:
            return [self(image, seed, mask) for image, seed, mask in zip(images, seeds, masks, strict=True)]
        latents = self.geometry.latents(height), self.geometry.latents(width)
        steps, channels = self.schedule.num_steps, self.denoiser.config.in_channels
        noise = torch.cat([NoiseField(seed, steps, channels).window(0, 0, *latents) for seed in seeds], dim=1)
        masks = [None if mask is None else unknown_pixels(mask) for mask in masks]
        known = [mask_to_tensor(mask) for mask in masks if mask is not None]
        lq = torch.cat([image_to_tensor(image) for image in images])
        restored = self.restore_batch(lq, noise, torch.cat(known) if known else None)
        arrays = [tensor_to_image(one, image.dtype) for one, image in zip(restored, images, strict=True)]
        return [
            array if mask is None else np.where(mask[..., None], array, image)
            for array, image, mask in zip(arrays, images, masks, strict=True)
        ]

    @torch.inference_mode()
    def restore_rows(
        self,
        image: np.ndarray,
        seed: int = 0,
        mask: np.ndarray | None = None,
        on_tiles: Callable[[int, int], None] | None = None,
    ) -> Iterator[np.ndarray]:
        """As calling the restorer, but yields the result piece by piece, (n, w * s, 3) each, from top to bottom.

        Memory holds one row of tiles, so that its need grows with the width of an image and not with its height.

        Args:
            on_tiles: called with the number of tiles just done and of all of them.
        """
        image = np.asarray(image)
        check_image(image)
        self._check_mask_given(mask is not None)
        mask = None if mask is None else unknown_pixels(mask)
        if mask is not None and mask.shape != image.shape[:2]:
            raise ValueError(f"mask has shape {mask.shape}; give {image.shape[:2]}, as the image")
        grid = self.geometry.grid(image.shape[0], image.shape[1], self.tile_size, self.tile_overlap)
        noise = NoiseField(seed, self.schedule.num_steps, self.denoiser.config.in_channels)
        row_weights, column_weights = (blend_weights(axis, grid.overlap) for axis in (grid.rows, grid.columns))
        weight_of = {(column.start, column.stop): w for column, w in zip(grid.columns, column_weights, strict=True)}
        total = len(grid.rows) * len(grid.columns)
        band = Band(grid.rows[0].stop, grid.columns[-1].stop, self.device)
        for number, (rows, row_weight) in enumerate(zip(grid.rows, row_weights, strict=True)):
            for batch in batches(grid.columns, self.batch_size):
                parts = self._restore_tiles(image, mask, noise, [(rows, columns) for columns in batch])
                for part, columns in zip(parts, batch, strict=True):
                    band.add(part, rows, columns, row_weight, weight_of[columns.start, columns.stop])
                if on_tiles is not None:
                    on_tiles(len(batch), total)
            top, bottom = band.top, grid.rows[number + 1].start if number + 1 < len(grid.rows) else rows.stop
            restored = tensor_to_image(band.release(bottom), image.dtype)
            # Rounding must not touch what was known, so it is taken from the image itself.
            yield restored if mask is None else np.where(mask[top:bottom, :, None], restored, image[top:bottom])

    def _restore_tiles(
        self, image: np.ndarray, mask: np.ndarray | None, noise: NoiseField, areas: Sequence[tuple[slice, slice]]
    ) -> Tensor:
        """Tiles of one size, (row slice, column slice) of the result each, as (B, 3, h, w)."""
        lq, masks, noises = [], [], []
        for area in areas:
            rows, columns = (slice(side.start // self.scale, side.stop // self.scale) for side in area)
            lq.append(image_to_tensor(image[rows, columns]))
            if mask is not None:
                masks.append(mask_to_tensor(mask[rows, columns]))
            size = (self.geometry.latents(axis.stop - axis.start) for axis in (rows, columns))
            noises.append(noise.window(*(side.start // self.geometry.downscale for side in area), *size))
        return self.restore_batch(torch.cat(lq), torch.cat(noises, dim=1), torch.cat(masks) if masks else None)

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

    def save(self, folder: Path | str) -> None:
        """Write model.json, denoiser.safetensors and, in latent space, autoencoder.json and autoencoder.safetensors."""
        if self.is_prepared:
            raise ValueError("the restorer was prepared for restoring, its weights are others now; save it before")
        parts = (self.denoiser, self.autoencoder, self.schedule, self.scale, self.task)
        write_bundle(Bundle(*parts, self.tile_size, self.tile_overlap), Path(folder))

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> Restorer:
        """Read back what `save` wrote.

        Raises:
            ValueError: a file is missing or damaged, or weights do not fit the configuration beside them.
        """
        bundle = read_bundle(Path(folder), device)
        return cls(
            bundle.denoiser,
            bundle.autoencoder,
            bundle.schedule,
            bundle.scale,
            bundle.task,
            tile_size=bundle.tile_size,
            tile_overlap=bundle.tile_overlap,
        )
