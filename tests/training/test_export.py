"""A checkpoint of a run, the best or any other, becomes a model version beside the one at the end."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from infra import storage
from infra.errors import UsageError
from infra.models import fetch
from resshift.restorer import Restorer
from tests.training.conftest import toy_recipe
from tests.training.ranks import start, wait
from training import denoiser_export, denoiser_trainer
from training.denoiser_export import export_checkpoint
from training.denoiser_run import run_training
from training.saved import whole_checkpoints
from training.tensor_file import read_tree

FIGURES = [0.5, 0.2, 0.4, 0.3]


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


class Scripted:
    """A validation whose figures are given."""

    def __init__(self, task, processes):
        self.figures = iter(FIGURES)

    def __call__(self, denoiser):
        return {"validation_lpips_alex": next(self.figures)}, np.zeros((8, 8, 3), np.uint8)


def recipe(**training):
    return toy_recipe(num_steps=4, checkpoint_every=4, keep_checkpoints=1, **training)


@pytest.fixture
def trained(latents, tmp_path, monkeypatch):
    """A run of four steps whose second was the best; it is version 1."""
    monkeypatch.setattr(denoiser_trainer, "DenoiserValidation", Scripted)
    run_training(recipe(validate_every=1), str(latents), str(tmp_path / "out"))
    return tmp_path / "out"


def averages(out, step: int) -> dict[str, torch.Tensor]:
    (saved,) = (saved for saved in whole_checkpoints(str(out / "checkpoints")) if saved.step == step)
    return read_tree(Path(saved.url, "state.safetensors"))["ema"]["average"]


@pytest.mark.parametrize(("which", "step"), [("best", 2), ("newest", 4), ("2", 2)])
def test_the_averaged_weights_of_the_checkpoint_are_registered_once(latents, trained, which, step):
    line = export_checkpoint(recipe(validate_every=1), str(latents), str(trained), which)
    bundle = trained / f"model-{step:06d}"
    assert line == f"registered: toy version 2 ({bundle})"
    for folder in (bundle, fetch("models:/toy/2")):
        weights = Restorer.load(folder).denoiser.state_dict()
        expected = averages(trained, step)
        assert set(weights) == set(expected)
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
    version = MlflowClient().get_model_version("toy", "2")
    assert version.tags["step"] == str(step)
    run = MlflowClient().get_run(version.run_id)
    assert run.data.metrics["validation_lpips_alex"] == FIGURES[step - 1]
    assert run.data.tags["mlflow.parentRunId"] == MlflowClient().get_model_version("toy", "1").run_id
    again = export_checkpoint(recipe(validate_every=1), str(latents), str(trained), which)
    assert again == f"already registered: toy version 2 ({bundle})"
    assert len(MlflowClient().search_model_versions("name='toy'")) == 2


def test_what_another_training_or_server_has_is_not_taken_for_it(latents, trained, tmp_path, monkeypatch):
    export_checkpoint(recipe(validate_every=1), str(latents), str(trained), "newest")
    shutil.rmtree(trained / "checkpoints")
    other = recipe(validate_every=1, learning_rate=0.01)
    run_training(other, str(latents), str(trained))
    line = export_checkpoint(other, str(latents), str(trained), "newest")
    assert line.startswith("registered: toy version 4 ")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    assert export_checkpoint(other, str(latents), str(trained), "newest").startswith("registered: toy version 1 ")
    run = MlflowClient().get_run(MlflowClient().get_model_version("toy", "1").run_id)
    assert "mlflow.parentRunId" not in run.data.tags


def test_a_checkpoint_that_is_dropped_meanwhile_is_looked_for_anew(latents, trained, monkeypatch):
    listed = whole_checkpoints(str(trained / "checkpoints"))
    gone = dataclasses.replace(listed[-1], url=str(trained / "checkpoints" / "step-000003"))
    answers = [[gone], listed]
    monkeypatch.setattr(denoiser_export, "whole_checkpoints", lambda url: answers.pop(0))
    line = export_checkpoint(recipe(validate_every=1), str(latents), str(trained), "newest")
    assert line.startswith("registered: toy version 2 ")
    assert not answers


@pytest.mark.parametrize(
    ("which", "changes", "expected"),
    [
        ("3", {}, "--checkpoint 3: is neither best nor newest, nor one of the steps 2, 4"),
        ("best", {"best_metric": "psnr_y"}, "none of the checkpoints was validated by psnr_y; give newest, or one of"),
        ("newest", {"learning_rate": 0.5}, "belongs to another recipe (training.learning_rate: 0.001 -> 0.5)"),
    ],
)
def test_what_is_not_there_is_named(latents, trained, which, changes, expected):
    with pytest.raises(UsageError) as raised:
        export_checkpoint(recipe(validate_every=1, **changes), str(latents), str(trained), which)
    assert expected in str(raised.value)
    assert len(MlflowClient().search_model_versions("name='toy'")) == 1


@pytest.mark.slow
def test_the_command_takes_a_checkpoint_from_s3_and_says_where_there_is_none(latents, recipe_file, tmp_path, s3):
    out = f"{s3}/run"
    options = ["--recipe", recipe_file, "--data", latents, "--out"]
    assert wait(start("train", [*options, out, "training.num_steps=1"], tmp_path)) == [0]
    (done,) = exporting = start("export", [*options, out, "--checkpoint", "newest"], tmp_path)
    assert wait(exporting) == [0], done.stderr
    assert done.stdout == f"registered: toy version 2 ({out}/model-000001)\n"
    assert storage.exists(storage.join(out, "model-000001", "model.json"))
    (failed,) = exporting = start("export", [*options, tmp_path / "empty"], tmp_path)
    assert wait(exporting) == [2]
    (line,) = failed.stderr.splitlines()
    assert (
        line == f"error: --out {tmp_path / 'empty'}: holds no checkpoint of a run; give the --out of training/train.py"
    )
