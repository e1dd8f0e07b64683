"""Held-out pairs are measured by all processes together, and what comes out does not depend on how many there are."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

from infra.recipe import Recipe
from pipelines.dataset import iter_shard, open_dataset
from resshift.images import image_to_tensor, tensor_to_image, upscale_lq
from resshift.metrics import psnr_y
from resshift.perceptual import lpips_metric
from resshift.restorer import Restorer
from tests.training.conftest import SCALE, TOY, toy_recipe
from tests.training.ranks import run_ranks
from training.denoiser_run import run_training
from training.validation import GRID_ROWS


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


def run_of(out: Path) -> mlflow.entities.Run:
    return mlflow.get_run(json.loads((out / "registered.json").read_text())["run_id"])


def test_figures_are_those_of_the_exported_model(latents, tmp_path):
    run_training(toy_recipe(num_steps=1, validation_samples=3), str(latents), str(tmp_path))
    restorer, lpips = Restorer.load(tmp_path / "model"), lpips_metric("alex")
    samples = list(iter_shard(open_dataset(str(latents)), 3))
    held_out = [samples[index] for index in (2, 4, 5)]  # of the last four, in whole photos
    restored = [restorer(sample["lq"], seed=number) for number, sample in enumerate(held_out)]
    start = [tensor_to_image(upscale_lq(image_to_tensor(sample["lq"]), SCALE)) for sample in held_out]
    metrics = run_of(tmp_path).data.metrics
    for name, images in (("validation", restored), ("validation_start", start)):
        pairs = [(image, sample["hq"]) for image, sample in zip(images, held_out, strict=True)]
        expected = np.mean([psnr_y(*pair) for pair in pairs])
        assert metrics[f"{name}_psnr_y"] == pytest.approx(expected, abs=1e-2)
        with torch.no_grad():
            expected = np.mean([float(lpips(*map(image_to_tensor, pair))) for pair in pairs])
        assert metrics[f"{name}_lpips_alex"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_processes_measures_the_same(latents, recipe_file, tmp_path, ranks):
    options = ["training.num_steps=1", "training.validation_samples=3", "denoiser.dropout=0", "training.log_every=1"]
    for name, count in (("one", 1), ("many", ranks)):
        arguments = ["--recipe", recipe_file, "--data", latents, "--out", tmp_path / name, *options]
        run_ranks("train", arguments, tmp_path, count)
    one, many = (run_of(tmp_path / name).data.metrics for name in ("one", "many"))
    for name in ("validation_psnr_y", "validation_lpips_alex", "validation_start_psnr_y", "loss", "loss_t0"):
        assert (name in one) == (name in many), name
        assert many.get(name, 0.0) == pytest.approx(one.get(name, 0.0), rel=1e-3), name


def test_the_picture_shows_lq_prediction_and_hq(latents, tmp_path):
    recipe = toy_recipe(num_steps=1, validation_samples=4)
    run_training(Recipe.from_dict({**TOY, **recipe.raw}), str(latents), str(tmp_path / "out"))
    run = run_of(tmp_path / "out")
    files = [file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "images")]
    (picture,) = [path for path in files if path.endswith(".png") and "step%1%" in path.replace("+", "%")]
    local = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=picture, dst_path=str(tmp_path))
    grid = np.asarray(Image.open(local).convert("RGB"))
    rows = min(GRID_ROWS, 4)
    assert grid.shape == (18 + rows * 36, 4 + 3 * 36, 3)
    sample = list(iter_shard(open_dataset(str(latents)), 3))[2]
    np.testing.assert_array_equal(grid[18:50, 76:108], sample["hq"])
    np.testing.assert_array_equal(grid[18:50, 4:36], np.kron(sample["lq"], np.ones((4, 4, 1), np.uint8)))
