"""Every shipped recipe is whole: its owners accept each section, and its networks can be built and fit together."""

import dataclasses

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
from resshift.vqgan_config import VQGANConfig
from tests.resshift.golden import official_params
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


PAPER = {
    # recipe: official networks, steps of the process, least noise level, iterations, batch, last learning rate, LPIPS
    "realsr_x4": ("realsr_x4", "vqgan_f4", 4, 0.2, 400_000, 96, 2e-5, 1),
    "realsr_x4_15step": ("realsr_x4", "vqgan_f4", 15, 0.04, 300_000, 64, 5e-5, 0),
    "realsr_x2": ("realsr_x2", "vqgan_f4", 4, 0.2, 400_000, 96, 2e-5, 1),  # ours, after realsr_x4
    "bicubic_x4": ("realsr_x4", "vqgan_f4", 4, 0.2, 400_000, 96, 2e-5, 1),
    "inpaint_natural": ("inpaint", "vqgan_f4", 4, 0.2, 400_000, 96, 2e-5, 10),
    "inpaint_face": ("inpaint", "vqgan_f4", 4, 0.2, 400_000, 96, 2e-5, 10),
    "face_512": ("face512", "vqgan_f8_face", 4, 0.2, 400_000, 56, 2e-5, 10),
    "deblur": (None, "vqgan_f4", 4, 0.2, 400_000, 96, 2e-5, 1),  # as realsr_x4, but for the LQ image's size
}


def test_every_full_size_recipe_is_in_the_table():
    assert {name for name in shipped_recipes() if not name.endswith("_tiny")} == PAPER.keys()


@pytest.mark.parametrize("name", PAPER)
def test_the_full_size_recipes_are_the_papers(name):
    denoiser, autoencoder, process_steps, noise_level, iterations, batch, last_rate, lpips_weight = PAPER[name]
    recipe = load_recipe(name)
    network = recipe.section("denoiser", SwinUNetConfig)
    if denoiser is None:
        network, denoiser = dataclasses.replace(network, lq_size=64), "realsr_x4"
    assert network == SwinUNetConfig.from_official(official_params(denoiser))
    vqgan = recipe.section("autoencoder", AutoencoderConfig).network
    assert vqgan == VQGANConfig.from_official(official_params(autoencoder))
    schedule = recipe.section("schedule", ScheduleConfig)
    assert (schedule.num_steps, schedule.min_noise_level) == (process_steps, noise_level)
    assert (schedule.kappa, schedule.power, schedule.sqrt_eta_end) == (2.0, 0.3, 0.99)
    training = recipe.section("training", TrainingConfig)
    assert (training.num_steps, training.global_batch_size) == (iterations, batch)
    assert (training.learning_rate, training.min_learning_rate) == (5e-5, last_rate)
    assert (training.ema_decay, training.warmup_steps) == (0.999, 5000)
    assert (training.mse_weight, training.lpips_weight) == (1, lpips_weight)


def test_every_recipe_has_its_miniature():
    names = shipped_recipes()
    full = [name for name in names if not name.endswith("_tiny")]
    assert sorted(full + [f"{name}_tiny" for name in full]) == names
    for name in full:
        recipe, tiny = load_recipe(name), load_recipe(f"{name}_tiny")
        assert (tiny.task, tiny.scale) == (recipe.task, recipe.scale)
        assert tiny.raw["degradation"]["name"] == recipe.raw["degradation"]["name"]
        assert tiny.raw["schedule"] == recipe.raw["schedule"]
