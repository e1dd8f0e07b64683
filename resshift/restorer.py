"""A trained model in use: LQ images of any size and kind become HQ ones, large ones tile by tile.

B batch, h and w LQ height and width, s scale, f the autoencoder's downscale (1 without one), T number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resshift.batch_restorer import BatchRestorer
from resshift.bundle import Bundle, read_bundle, write_bundle
from resshift.images import (
    check_image,
    image_to_tensor,
    mask_to_tensor,
    tensor_to_image,
    unknown_pixels,
)
from resshift.noise import NoiseField
from resshift.precision import choose_precision, prepare
from resshift.schedule import EtaSchedule
from resshift.swin_unet import SwinUNet
from resshift.tiling import Band, batches, blend_weights
from resshift.vqgan import VQGAN


class Restorer(BatchRestorer):
    """Restores images of any size; large ones tile by tile."""

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
        super().__init__(denoiser, autoencoder, schedule, scale)
        if tile_size < 1 or not 0 <= tile_overlap <= tile_size // 2:
            raise ValueError(f"tile_overlap is {tile_overlap}; give 0 to half of tile_size ({tile_size})")
        self.task = task
        self.tile_size = tile_size
        self.tile_overlap = tile_overlap
        self.batch_size = batch_size
        self.is_prepared = False

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
