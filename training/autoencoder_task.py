"""What an autoencoder run works on: recipe section, dataset, crops. What does not fit is found here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.errors import UsageError
from infra.recipe import Recipe
from pipelines.autoencoder import AutoencoderConfig
from pipelines.dataset import Dataset, open_dataset
from resshift.perceptual import MIN_SIZE
from resshift.vqgan import VQGAN
from resshift.vqgan_config import VQGANConfig
from training.config import AutoencoderTrainingConfig, TrainingConfig
from training.denoiser_task import images_to_tensor
from training.linear_start import can_start_linear, start_linear
from training.loader import Batch, held_out_size
from training.order import SampleOrder
from training.seeding import mix


@dataclass(frozen=True)
class AutoencoderTask:
    """A checked recipe and the HQ images it is trained on. `resolved` is what decides the result."""

    recipe: Recipe
    resolved: dict[str, Any]
    config: AutoencoderTrainingConfig
    network: VQGANConfig
    dataset: Dataset
    order: SampleOrder

    def build_autoencoder(self) -> VQGAN:
        """The network with its initial weights, which follow from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            vqgan = VQGAN(self.network)
        if self.config.linear_start and can_start_linear(vqgan):
            start_linear(vqgan)
        return vqgan

    def crops(self, batch: Batch, device: torch.device) -> Tensor:
        """Random crops of a batch, half of them mirrored: (B, 3, crop_size, crop_size) in [-1, 1].

        Like the noise of the denoiser they follow from seed, step and place in the batch alone.
        """
        size, images = self.config.crop_size, batch.arrays["hq"]
        cut = np.empty((len(images), size, size, 3), np.uint8)
        for row, slot in enumerate(batch.slots):
            rng = np.random.Generator(np.random.SFC64(mix(self.config.seed, batch.step, slot)))
            top, left = (int(rng.integers(side - size + 1)) for side in images.shape[1:3])
            crop = images[row, top : top + size, left : left + size]
            cut[row] = crop[:, ::-1] if rng.random() < 0.5 else crop
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return images_to_tensor(cut, device).contiguous(memory_format=layout)


def open_autoencoder_task(recipe: Recipe, data: str) -> AutoencoderTask:
    """Check a recipe against a dataset. Raises UsageError, naming what does not fit."""
    config = recipe.section("training", TrainingConfig).autoencoder
    network = recipe.section("autoencoder", AutoencoderConfig).network
    if network is None:
        raise UsageError("autoencoder.network: is null, this recipe works in pixel space; there is nothing to train")
    dataset = open_dataset(data)
    hq_size = dataset.shards_config.hq_size
    if config.crop_size > hq_size or config.crop_size % network.downscale:
        raise UsageError(
            f"training.autoencoder.crop_size: {config.crop_size} must be a multiple of {network.downscale}, at most "
            f"the dataset's hq_size {hq_size}"
        )
    if config.lpips_weight and config.crop_size < MIN_SIZE:
        raise UsageError(
            f"training.autoencoder.crop_size: {config.crop_size} is too small for LPIPS; give at least {MIN_SIZE}, or "
            "lpips_weight 0"
        )
    counts = [record.num_samples for record in dataset.shards]
    held_out = held_out_size(dataset, config.validation_samples)
    try:
        order = SampleOrder(counts, config.global_batch_size, config.seed, held_out)
    except ValueError as error:
        raise UsageError(
            f"dataset '{data}': {error}; add data, or lower training.autoencoder.global_batch_size"
        ) from error
    resolved = recipe.resolved(autoencoder=AutoencoderConfig)
    resolved["autoencoder"] = resolved["autoencoder"]["network"]
    resolved["training"] = config.model_dump(mode="json")
    resolved["dataset"] = dataset.digest
    return AutoencoderTask(recipe, resolved, config, network, dataset, order)
