"""Every shipped recipe trains: the full-size ones for a step without data, the tiny ones for real from their own pairs.

A tiny recipe goes the whole way of its task, in miniature numbers: photos, pairs, an autoencoder, latents, denoiser, a
restored image.
"""

import dataclasses
import json
import shlex
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from infra.recipe import Recipe, digest, load_recipe, shipped_recipes
from pipelines.autoencoder import AutoencoderConfig
from pipelines.dataset import iter_shard, open_dataset
from pipelines.latents import make_latents
from pipelines.pairs import make_pairs
from resshift.restorer import Restorer
from resshift.schedule import ScheduleConfig
from resshift.swin_unet_config import SwinUNetConfig
from resshift.vqgan import VQGAN
from training.autoencoder_run import run_autoencoder_training
from training.autoencoder_task import AutoencoderTask
from training.config import TrainingConfig
from training.denoiser_run import run_training
from training.denoiser_task import DenoiserTask, open_task
from training.flops import crop_flops, dry_step, sample_flops
from training.loader import collate, read_samples

pytestmark = pytest.mark.slow

TINY = [name for name in shipped_recipes() if name.endswith("_tiny")]
FULL = [name for name in shipped_recipes() if not name.endswith("_tiny")]

ENCODED_AHEAD = ("realsr_x4_tiny", "inpaint_natural_tiny", "face_512_tiny")  # the others encode pairs as they read them

FEW = shlex.split("""
shards.variants=2 shards.samples_per_shard=3
training.num_steps=2 training.global_batch_size=4 training.micro_batch_size=2 training.validation_samples=2
training.checkpoint_every=2 training.log_every=1
training.autoencoder.num_steps=2 training.autoencoder.global_batch_size=4 training.autoencoder.micro_batch_size=4
training.autoencoder.validation_samples=2 training.autoencoder.codebook_start=0.5
autoencoder.network.n_embed=64
""")


@pytest.fixture(scope="module")
def autoencoders(tmp_path_factory) -> tuple[Path, dict[str, Path]]:
    """Where autoencoders are trained, and those that exist already, by their network."""
    return tmp_path_factory.mktemp("autoencoders"), {}


def without_data(recipe: Recipe) -> DenoiserTask:
    encoding = recipe.section("autoencoder", AutoencoderConfig)
    with torch.device("meta"):
        autoencoder = None if encoding.network is None else VQGAN(encoding.network)
    return DenoiserTask(
        recipe, {}, recipe.section("training", TrainingConfig), recipe.section("denoiser", SwinUNetConfig), encoding,
        recipe.section("schedule", ScheduleConfig).build(), dataset=None, order=None, autoencoder=autoencoder,
    )  # fmt: skip


@pytest.mark.parametrize("name", FULL)
def test_a_full_size_recipe_steps(name):
    denoiser = dry_step(without_data(load_recipe(name)))
    optimizer = torch.optim.AdamW(denoiser.parameters())
    for parameter in denoiser.parameters():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
    optimizer.step()
    millions = sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6
    assert 118 < millions < 123, "the paper's network, but for the layers that take in the condition"


def test_operations_of_a_step_are_those_of_the_networks():
    """Against the figures of one forward pass: 101 GFLOP for the denoiser, 671 for the decoder."""
    task = without_data(load_recipe("realsr_x4"))
    plain = dataclasses.replace(task, config=task.config.model_copy(update={"lpips_weight": 0.0}))
    assert sample_flops(plain) == pytest.approx(3 * 101e9, rel=0.01)
    decode_and_judge = sample_flops(task) - sample_flops(plain)
    assert decode_and_judge > 2 * 671e9, "forward, and backward to its input"
    cropped = dataclasses.replace(task, config=task.config.model_copy(update={"lpips_crop": 32}))
    assert sample_flops(cropped) - sample_flops(plain) == pytest.approx(decode_and_judge / 4, rel=0.1)


@pytest.mark.parametrize(("name", "downscale"), [("realsr_x4", 4), ("face_512", 8)])
def test_a_full_size_autoencoder_steps(name, downscale):
    recipe = load_recipe(name)
    config = recipe.section("training", TrainingConfig).autoencoder
    network = recipe.section("autoencoder", AutoencoderConfig).network
    assert network.downscale == downscale
    task = AutoencoderTask(recipe, {}, config, network, dataset=None, order=None)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        vqgan = VQGAN(network)
        vqgan.decode(vqgan.encode(torch.empty(1, 3, config.crop_size, config.crop_size)), quantize=False)
    assert crop_flops(task) > 3 * counter.get_total_flops(), "forward, backward, and those who judge"


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_recipe_goes_the_whole_way(name, photos, local_ray, mlflow_store, autoencoders, tmp_path):
    recipe = load_recipe(name, FEW)
    pairs, latents, out = (str(tmp_path / part) for part in ("pairs", "latents", "out"))
    make_pairs(recipe, str(photos), pairs, workers=2)
    data = pairs
    if recipe.section("autoencoder", AutoencoderConfig).network is not None:
        weights = trained_autoencoder(recipe, pairs, *autoencoders)
        recipe = load_recipe(name, [*FEW, f"autoencoder.weights={weights}"])
        if name in ENCODED_AHEAD:
            make_latents(recipe, pairs, latents, workers=1)
            data = latents
    assert f"registered: {name} version 1" in run_training(recipe, data, out)

    restorer = Restorer.load(Path(out, "model"))
    sample = next(iter_shard(open_dataset(pairs), 0))
    restored = restorer(sample["lq"], mask=sample.get("mask"))
    assert restored.shape == sample["hq"].shape
    run = mlflow.get_run(json.loads(Path(out, "registered.json").read_text())["run_id"])
    assert np.isfinite(list(run.data.metrics.values())).all()
    assert {"loss", "validation_psnr_y", "validation_lpips_alex", "flops_utilisation"} <= run.data.metrics.keys()
    if recipe.task == "inpainting":
        check_inpainting(recipe, data, restorer, sample, restored)


def trained_autoencoder(recipe: Recipe, pairs: str, folder: Path, trained: dict[str, Path]) -> Path:
    network = digest(recipe.raw["autoencoder"]["network"])
    if network not in trained:
        trained[network] = folder / network[:8]
        run_autoencoder_training(recipe, pairs, str(trained[network]))
    return trained[network]


def check_inpainting(recipe: Recipe, data: str, restorer: Restorer, sample: dict, restored: np.ndarray) -> None:
    """The mask reaches the denoiser, in training and in use."""
    task = open_task(recipe, data)
    batch = collate(0, read_samples(task.dataset, task.order.batch(0), task.fields), range(4), task.fields)
    tensors = task.to_device(batch, torch.device("cpu"))
    assert tensors.mask.shape == (4, 1, 128, 128)
    assert set(tensors.mask.unique().tolist()) == {-1.0, 1.0}
    missing = tensors.mask.expand_as(tensors.lq) > 0
    assert (tensors.lq[missing] == -1).all()
    assert tensors.lq[~missing].std() > 0.1
    of_mask = "feature_extractor.0.weight"
    before, after = (network.state_dict()[of_mask][:, 3] for network in (task.build_denoiser(), restorer.denoiser))
    assert not torch.equal(before, after), "its weights were trained"
    known = sample["mask"] == 0
    np.testing.assert_array_equal(restored[known], sample["hq"][known])
    assert Image.fromarray(restored).size == (128, 128)
