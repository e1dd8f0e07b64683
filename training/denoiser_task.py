"""What a denoiser run works on: recipe sections, dataset, frozen networks. What does not fit is found here.

The dataset of a latent recipe is what make_latents wrote, or pairs, which are then encoded as they are read; a recipe
without autoencoder works in pixel space, on the pairs themselves.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import UsageError
from infra.recipe import Recipe
from pipelines.autoencoder import AutoencoderConfig
from pipelines.dataset import Dataset, open_dataset
from resshift.images import fit_condition, fit_mask, upscale_lq
from resshift.perceptual import MIN_SIZE, lpips_metric
from resshift.restorer import Restorer
from resshift.schedule import EtaSchedule, ScheduleConfig
from resshift.swin_unet import SwinUNet
from resshift.swin_unet_config import SwinUNetConfig
from resshift.vqgan import VQGAN
from resshift.weights import weights_sha256
from training.config import TrainingConfig
from training.engine import autocast, place
from training.latent_space import frozen_autoencoder
from training.linear_start import can_start_linear, start_regression
from training.loader import Batch, collate, held_out_size, read_samples
from training.loss import Crops, DenoisingBatch, draw_crops, draw_noise
from training.order import SampleOrder

LINEAR_START_BATCHES = 8


@dataclass(frozen=True)
class DenoiserTask:
    """A checked recipe and the data it is trained on. `resolved` is the recipe with every default filled in."""

    recipe: Recipe
    resolved: dict[str, Any]
    config: TrainingConfig
    network: SwinUNetConfig
    encoding: AutoencoderConfig
    schedule: EtaSchedule
    dataset: Dataset
    order: SampleOrder
    autoencoder: VQGAN | None

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of a sample that training reads."""
        latents = () if self.starts_from_pairs else ("hq_latent", "lq_latent")
        images = ("hq",) if self.starts_from_pairs or self.config.lpips_weight else ()
        return (*self.condition_fields, *latents, *images)

    @property
    def starts_from_pairs(self) -> bool:
        """Whether the dataset holds images alone."""
        return bool(self.dataset.plan["identity"]["kind"] == "pairs")

    @property
    def condition_fields(self) -> tuple[str, ...]:
        """Fields of a sample that a restoration starts from."""
        return ("lq", "mask") if self.network.cond_mask else ("lq",)

    def build_denoiser(self) -> SwinUNet:
        """The network with its initial weights, which follow from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return SwinUNet(self.network)

    def start_linear(self, denoiser: SwinUNet) -> None:
        """Give a denoiser with initial weights a better start, if the recipe asks for it and its shape allows it."""
        if not (self.config.linear_start and can_start_linear(denoiser)):
            return
        places = np.concatenate([self.order.batch(step) for step in range(LINEAR_START_BATCHES)])
        samples = read_samples(self.dataset, places, self.fields, self.config.shard_cache_bytes)
        whole = collate(0, samples, range(len(samples)), self.fields)
        parts = [self.to_device(part, torch.device("cpu")) for part in whole.micro(self.config.micro_batch_size)]
        start_regression(denoiser, torch.cat([part.lq for part in parts]), torch.cat([part.x_0 for part in parts]))

    def build_perceptual(self, device: torch.device) -> nn.Module | None:
        """LPIPS-vgg, None if its weight is 0."""
        return place(lpips_metric("vgg"), device, self.config.channels_last) if self.config.lpips_weight else None

    def place_autoencoder(self, device: torch.device) -> None:
        """Move the autoencoder to where it is used, in the memory layout of the recipe."""
        if self.autoencoder is not None:
            place(self.autoencoder, device, self.config.channels_last)

    def to_device(self, batch: Batch, device: torch.device) -> DenoisingBatch:
        """Tensors of a batch: latents scaled, images in [-1, 1], timesteps and noise drawn.

        Pairs are encoded here, so the autoencoder must be on `device`.
        """
        arrays = batch.arrays
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        lq = images_to_tensor(arrays["lq"], device).contiguous(memory_format=layout)
        hq = images_to_tensor(arrays["hq"], device).contiguous(memory_format=layout) if "hq" in arrays else None
        mask = None
        if "mask" in arrays:
            mask = send(torch.from_numpy(arrays["mask"] > 127), device)[:, None].float() * 2.0 - 1.0
            lq = torch.where(mask > 0, -1.0, lq)  # nothing of what the network has to invent
        if self.starts_from_pairs:
            assert hq is not None, "fields asks for it"
            x_0, y_0 = self._encode(hq), self._encode(upscale_lq(lq, self.recipe.scale))
        else:
            assert self.autoencoder is not None, "latents come with theirs"
            x_0, y_0 = (
                self.autoencoder.scale_latent(send(torch.from_numpy(arrays[field]), device).float())
                for field in ("hq_latent", "lq_latent")
            )
        t, noise = draw_noise(self.config.seed, batch.step, batch.slots, tuple(x_0.shape[1:]), self.schedule.num_steps)
        size = (x_0.shape[2] * self.network.lq_factor, x_0.shape[3] * self.network.lq_factor)
        return DenoisingBatch(
            x_0.contiguous(memory_format=layout),
            y_0.contiguous(memory_format=layout),
            fit_condition(lq, size).contiguous(memory_format=layout),
            None if mask is None else fit_mask(mask, size).contiguous(memory_format=layout),
            hq,
            send(t, device),
            send(noise, device).contiguous(memory_format=layout),
            self.crops(batch.step, batch.slots, x_0.shape[2]),
        )

    def crops(self, step: int, slots: list[int], side: int) -> Crops | None:
        """What part of latents of `side` x `side` LPIPS looks at in the samples at `slots` of a global batch."""
        size = self.config.lpips_crop
        return None if size is None else draw_crops(self.config.seed, step, slots, side, size)

    @torch.no_grad()
    def _encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to what the denoiser works in, rounded as make_latents stores it."""
        if self.autoencoder is None:
            return images
        with autocast(self.encoding.precision, images.device)():
            latent = self.autoencoder.encode(images)
        return self.autoencoder.scale_latent(latent.half().float())

    def restorer(self, denoiser: SwinUNet) -> Restorer:
        """The denoiser in use, with this task's autoencoder and schedule."""
        return Restorer(denoiser, self.autoencoder, self.schedule, self.recipe.scale, self.recipe.task)


def open_task(recipe: Recipe, data: str) -> DenoiserTask:
    """Check a recipe against a dataset. Raises UsageError, naming what does not fit."""
    config = recipe.section("training", TrainingConfig)
    network = recipe.section("denoiser", SwinUNetConfig)
    schedule_config = recipe.section("schedule", ScheduleConfig)
    encoding = recipe.section("autoencoder", AutoencoderConfig)
    resolved = recipe.resolved(
        autoencoder=AutoencoderConfig, denoiser=SwinUNetConfig, schedule=ScheduleConfig, training=TrainingConfig
    )
    del resolved["autoencoder"]["weights"]  # where the weights lay is no part of what they are; the dataset knows those
    del resolved["training"]["autoencoder"]
    dataset = open_dataset(data)
    check_fits(recipe, dataset, latents=encoding.network is not None)
    autoencoder = frozen_autoencoder(dataset, encoding)
    resolved["autoencoder"]["weights_sha256"] = None if autoencoder is None else weights_sha256(autoencoder)
    resolved["dataset"] = dataset.digest
    try:
        order = SampleOrder(
            [record.num_samples for record in dataset.shards],
            config.global_batch_size,
            config.seed,
            held_out_size(dataset, config.validation_samples),
        )
    except ValueError as error:
        raise UsageError(f"dataset '{data}': {error}; add data, or lower training.global_batch_size") from error
    schedule = schedule_config.build()
    task = DenoiserTask(recipe, resolved, config, network, encoding, schedule, dataset, order, autoencoder)
    try:
        with torch.device("meta"):
            task.restorer(SwinUNet(network))
    except ValueError as error:
        raise UsageError(f"denoiser: {error}") from error
    _check_crop(task)
    return task


def _check_crop(task: DenoiserTask) -> None:
    crop, downscale = task.config.lpips_crop, 1 if task.autoencoder is None else task.autoencoder.downscale
    hq_size = task.dataset.shards_config.hq_size
    if task.config.lpips_weight and hq_size < MIN_SIZE:
        raise UsageError(
            f"training.lpips_weight: HQ crops of {hq_size} pixels are too small for LPIPS; make them with "
            f"shards.hq_size of at least {MIN_SIZE}, or set training.lpips_weight to 0"
        )
    if crop is not None and not MIN_SIZE <= crop * downscale <= hq_size:
        raise UsageError(
            f"training.lpips_crop: {crop} latent pixels are {crop * downscale} of the image; give "
            f"{-(-MIN_SIZE // downscale)} to {hq_size // downscale}, or null for the whole image"
        )


def check_fits(recipe: Recipe, dataset: Dataset, *, latents: bool) -> None:
    """Refuse a dataset made for something else than the recipe. Raises UsageError."""
    identity = dataset.plan["identity"]
    if identity["kind"] == "latents" and not latents:
        raise UsageError(
            f"dataset '{dataset.url}': holds latents, this recipe trains on pairs (autoencoder.network is null); "
            "give the --out of make_pairs.py"
        )
    for name, wanted in (("task", recipe.task), ("scale", recipe.scale)):
        if identity[name] != wanted:
            raise UsageError(
                f"dataset '{dataset.url}': {name} is {identity[name]!r}, recipe '{recipe.name}' needs {wanted!r}; "
                "give the dataset made with this recipe"
            )


def images_to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W) in [-1, 1] on `device`."""
    return send(torch.from_numpy(images), device).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`. A GPU goes on meanwhile: copying from ordinary memory would empty its queue."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
