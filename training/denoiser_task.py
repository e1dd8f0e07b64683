"""What a denoiser run works on: recipe sections, dataset, frozen networks. What does not fit is found here.

The dataset of a latent recipe is what make_latents wrote, with the autoencoder beside it; a recipe without autoencoder
works in pixel space, on the pair shards themselves.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infra import storage
from infra.errors import UsageError
from infra.recipe import Recipe
from pipelines.autoencoder import AUTOENCODER_FOLDER, AutoencoderConfig
from pipelines.dataset import Dataset, open_dataset
from resshift.images import fit_condition, fit_mask, upscale_lq
from resshift.perceptual import lpips_metric
from resshift.restorer import Restorer
from resshift.schedule import EtaSchedule, ScheduleConfig
from resshift.swin_unet import SwinUNet
from resshift.swin_unet_config import SwinUNetConfig
from resshift.vqgan import VQGAN
from resshift.weights import fingerprint, load_vqgan
from training.config import TrainingConfig
from training.linear_start import can_start_linear, start_regression
from training.loader import Batch, ShardCache, collate, held_out_size
from training.loss import DenoisingBatch, draw_noise
from training.order import SampleOrder

LINEAR_START_BATCHES = 8


@dataclass(frozen=True)
class DenoiserTask:
    """A checked recipe and the data it is trained on. `resolved` is the recipe with every default filled in."""

    recipe: Recipe
    resolved: dict[str, Any]
    config: TrainingConfig
    network: SwinUNetConfig
    schedule: EtaSchedule
    dataset: Dataset
    order: SampleOrder
    autoencoder: VQGAN | None

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of a sample that training reads."""
        names = list(self.condition_fields)
        if self.autoencoder is not None:
            names += ["hq_latent", "lq_latent"]
        if self.autoencoder is None or self.config.lpips_weight:
            names.append("hq")
        return tuple(names)

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
        places = [place for step in range(LINEAR_START_BATCHES) for place in self.order.batch(step)]
        cache = ShardCache(self.dataset, self.fields)
        cache.want({int(shard) for shard, _ in places})
        samples = [cache.sample(int(shard), int(index)) for shard, index in places]
        cache.close()
        batch = self.to_device(collate(0, samples, range(len(samples)), self.fields), torch.device("cpu"))
        start_regression(denoiser, batch.lq, batch.x_0)

    def build_perceptual(self) -> nn.Module | None:
        """LPIPS-vgg, None if its weight is 0."""
        return lpips_metric("vgg") if self.config.lpips_weight else None

    def to_device(self, batch: Batch, device: torch.device) -> DenoisingBatch:
        """Tensors of a batch: latents scaled, images in [-1, 1], timesteps and noise drawn."""
        arrays = batch.arrays
        lq_image = images_to_tensor(arrays["lq"], device)
        hq = images_to_tensor(arrays["hq"], device) if "hq" in arrays else None
        if self.autoencoder is None:
            assert hq is not None, "fields asks for it"
            x_0, y_0 = hq, upscale_lq(lq_image, self.recipe.scale)
        else:
            x_0 = self.autoencoder.scale_latent(torch.from_numpy(arrays["hq_latent"]).to(device).float())
            y_0 = self.autoencoder.scale_latent(torch.from_numpy(arrays["lq_latent"]).to(device).float())
        t, noise = draw_noise(self.config.seed, batch.step, batch.slots, tuple(x_0.shape[1:]), self.schedule.num_steps)
        size = (x_0.shape[2] * self.network.lq_factor, x_0.shape[3] * self.network.lq_factor)
        mask = None
        if "mask" in arrays:
            mask = torch.from_numpy(arrays["mask"] > 127).to(device)[:, None].float() * 2.0 - 1.0
            lq_image = torch.where(mask > 0, -1.0, lq_image)  # nothing of what the network has to invent
            mask = fit_mask(mask, size)
        return DenoisingBatch(x_0, y_0, fit_condition(lq_image, size), mask, hq, t.to(device), noise.to(device))

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
    check_kind(recipe, dataset, "pairs" if encoding.network is None else "latents")
    autoencoder = None if encoding.network is None else _autoencoder_of(dataset, encoding)
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
    task = DenoiserTask(recipe, resolved, config, network, schedule_config.build(), dataset, order, autoencoder)
    try:
        task.restorer(SwinUNet(network))
    except ValueError as error:
        raise UsageError(f"denoiser: {error}") from error
    return task


def check_kind(recipe: Recipe, dataset: Dataset, kind: str) -> None:
    """Refuse a dataset made for something else than the recipe. Raises UsageError."""
    identity = dataset.plan["identity"]
    if identity["kind"] != kind:
        remedy = {"latents": "give the --out of make_latents.py", "pairs": "give the --out of make_pairs.py"}[kind]
        raise UsageError(f"dataset '{dataset.url}': holds {identity['kind']}, this recipe trains on {kind}; {remedy}")
    for name, wanted in (("task", recipe.task), ("scale", recipe.scale)):
        if identity[name] != wanted:
            raise UsageError(
                f"dataset '{dataset.url}': {name} is {identity[name]!r}, recipe '{recipe.name}' needs {wanted!r}; "
                "give the dataset made with this recipe"
            )


def images_to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W) in [-1, 1] on `device`."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _autoencoder_of(dataset: Dataset, encoding: AutoencoderConfig) -> VQGAN:
    with tempfile.TemporaryDirectory(prefix="autoencoder-") as cache:
        folder = storage.local_folder(storage.join(dataset.url, AUTOENCODER_FOLDER), Path(cache))
        try:
            autoencoder = load_vqgan(folder)
        except (ValueError, FileNotFoundError) as error:
            raise UsageError(f"dataset '{dataset.url}': its autoencoder cannot be loaded: {error}") from error
        made_by = dataset.plan["identity"]["autoencoder"]
        _refuse_other(f"dataset '{dataset.url}': its autoencoder folder", fingerprint(autoencoder), made_by)
        if encoding.weights is not None:
            wanted = load_vqgan(storage.local_folder(encoding.weights, Path(cache) / "wanted"))
            _refuse_other(f"autoencoder.weights '{encoding.weights}'", fingerprint(wanted), made_by)
    if autoencoder.config != encoding.network:
        raise UsageError(
            f"dataset '{dataset.url}': was encoded by another network than autoencoder.network "
            f"({autoencoder.config}); make the latents again with this recipe"
        )
    return autoencoder.eval().requires_grad_(False)


def _refuse_other(what: str, found: dict[str, Any], made_by: dict[str, Any]) -> None:
    different = [key for key, value in found.items() if made_by.get(key) != value]
    if different:
        key = different[0]
        raise UsageError(
            f"{what}: {key} is {found[key]!r}, but the latents were made with {made_by.get(key)!r}; "
            "make the latents again with this autoencoder"
        )
