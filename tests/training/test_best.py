"""Besides the newest checkpoints the best in validation is kept, also when it was not due."""

import numpy as np
import pytest

from tests.training.conftest import toy_recipe
from training import denoiser_trainer
from training.denoiser_run import run_training
from training.saved import whole_checkpoints


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


@pytest.mark.parametrize(
    ("metric", "figures", "kept"),
    [
        ("lpips_alex", [0.5, 0.4, 0.3, 0.6, 0.35, 0.7], {3: 0.3, 6: 0.7}),
        ("psnr_y", [20.0, 25.0, 24.0, 23.0, 22.0, 21.0], {2: 25.0, 6: 21.0}),
        ("psnr_y", [20.0, 21.0, float("nan"), 22.0, 23.0, 24.0], {6: 24.0}),
    ],
)
def test_the_newest_and_the_best_are_kept(latents, tmp_path, monkeypatch, metric, figures, kept):
    measured = iter(figures)

    class Scripted:
        def __init__(self, task, processes):
            pass

        def __call__(self, denoiser):
            return {f"validation_{metric}": next(measured)}, np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(denoiser_trainer, "DenoiserValidation", Scripted)
    recipe = toy_recipe(validate_every=1, checkpoint_every=4, keep_checkpoints=1, best_metric=metric)
    run_training(recipe, str(latents), str(tmp_path))
    found = whole_checkpoints(str(tmp_path / "checkpoints"))
    assert {saved.step: saved.figure(metric) for saved in found} == kept
