"""Every shipped recipe is whole: its owners accept each section, and its networks can be built and fit together."""

import pytest
import torch

from degradations import build
from evaluation.config import EvaluationConfig, PromotionConfig
from infra.recipe import load_recipe, shipped_recipes
from pipelines.autoencoder import AutoencoderConfig
from pipelines.config import ShardsConfig
from resshift.restorer import Restorer
from resshift.schedule import ScheduleConfig
from resshift.swin_unet import SwinUNet
from resshift.swin_unet_config import SwinUNetConfig
from resshift.vqgan import VQGAN
from training.config import TrainingConfig


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_accepted_by_every_owner(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    build(recipe.raw["degradation"], scale=recipe.scale)
    shards = recipe.section("shards", ShardsConfig)
    assert shards.hq_size % recipe.scale == 0
    for section, model in (
        ("training", TrainingConfig),
        ("evaluation", EvaluationConfig),
        ("promotion", PromotionConfig),
    ):
        recipe.section(section, model)
    network = recipe.section("autoencoder", AutoencoderConfig).network
    with torch.device("meta"):
        denoiser = SwinUNet(recipe.section("denoiser", SwinUNetConfig))
        autoencoder = VQGAN(network) if network else None
    schedule = recipe.section("schedule", ScheduleConfig).build()
    restorer = Restorer(denoiser, autoencoder, schedule, recipe.scale, recipe.task)
    downscale = autoencoder.downscale if autoencoder else 1
    assert shards.hq_size // downscale == denoiser.config.image_size, "a crop's latent is what the denoiser is made for"
    assert restorer.task == recipe.task


def test_the_full_size_recipe_has_the_papers_networks():
    recipe = load_recipe("realsr_x4")
    with torch.device("meta"):
        denoiser = SwinUNet(recipe.section("denoiser", SwinUNetConfig))
        autoencoder = VQGAN(recipe.section("autoencoder", AutoencoderConfig).network)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6 == pytest.approx(118.59, abs=0.005)
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) / 1e6 == pytest.approx(55.32, abs=0.005)
