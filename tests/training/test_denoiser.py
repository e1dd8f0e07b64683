"""The denoiser trains, resumes exactly, refuses what does not fit, and never hides a bad step."""

import dataclasses
import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from infra import storage
from infra.errors import JobError, UsageError
from infra.models import fetch
from infra.recipe import Recipe
from resshift.restorer import Restorer
from resshift.weights import fingerprint
from tests.training.conftest import TOY, toy_recipe, write_dataset
from training import denoiser_trainer
from training.checkpoint import Checkpoints
from training.denoiser_export import export_checkpoint
from training.denoiser_run import run_training
from training.saved import whole_checkpoints
from training.tensor_file import read_tree


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


class Interrupted(Exception):
    pass


@contextmanager
def dying_at(step: int, *, before_saving: bool = False):
    """Let training die right after the checkpoint of `step` was saved, or right before."""
    save = Checkpoints.save

    def dying_save(self, at, *arguments):
        if not (before_saving and at >= step):
            save(self, at, *arguments)
        if at >= step:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):  # noqa: PT012
        patch.setattr(Checkpoints, "save", dying_save)
        yield


def saved_state(out: Path, step: int) -> dict[str, dict]:
    """Everything a checkpoint holds: weights, moments, average, counters."""
    folder = out / "checkpoints" / f"step-{step:06d}"
    files = sorted(folder.rglob("*.safetensors"))
    assert len(files) >= 3, files
    return {path.relative_to(folder).as_posix(): read_tree(path) for path in files}


def assert_same(a, b, path="") -> None:
    """Bit for bit, however deep."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, (int, float, str, bool, type(None))):
        assert a == b, path


def assert_nearly_same(a, b) -> None:
    """Weights after a few steps of size 1e-3: Adam turns a rounding error into a step where a gradient is almost 0."""
    for name in a:
        assert (a[name] - b[name]).abs().mean() < 2e-5, name


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_three_and_three_steps_are_six_steps_bit_for_bit(latents, tmp_path, zero_stage):
    recipe = toy_recipe(zero_stage=zero_stage)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_training(recipe, str(latents), str(whole))
    with dying_at(3):
        run_training(recipe, str(latents), str(parts))
    torch.manual_seed(99)
    run_training(recipe, str(latents), str(parts))
    assert_same(saved_state(whole, 6), saved_state(parts, 6))
    assert (whole / "model" / "denoiser.safetensors").read_bytes() == (
        parts / "model" / "denoiser.safetensors"
    ).read_bytes()


def test_steps_after_the_last_checkpoint_are_done_again(latents, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    recipe = toy_recipe()
    run_training(recipe, str(latents), str(whole))
    with dying_at(6, before_saving=True):
        run_training(recipe, str(latents), str(parts))
    assert [path.name for path in (parts / "checkpoints").iterdir()] == ["step-000003"]
    (parts / "checkpoints" / ".tmp-step-000006").mkdir()  # what a save that was killed leaves behind
    run_training(recipe, str(latents), str(parts))
    assert_same(saved_state(whole, 6), saved_state(parts, 6))
    assert not list((parts / "checkpoints").glob(".tmp-*"))


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_accumulating_micro_batches_is_the_whole_batch(latents, tmp_path, zero_stage):
    outs = [tmp_path / str(micro) for micro in (1, 4)]
    for out, micro in zip(outs, (1, 4), strict=True):
        raw = toy_recipe(micro_batch_size=micro, num_steps=3, zero_stage=zero_stage).raw
        recipe = Recipe.from_dict({**raw, "denoiser": {**raw["denoiser"], "dropout": 0.0}})
        run_training(recipe, str(latents), str(out))
    a, b = (Restorer.load(out / "model").denoiser.state_dict() for out in outs)
    assert_nearly_same(a, b)


def test_what_a_run_leaves_behind(latents, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    summary = run_training(toy_recipe(lpips_weight=0.5), str(latents), str(out))
    assert summary == f"registered: toy version 1 ({out}/model)"
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000003", "step-000006"]

    registered = json.loads((out / "registered.json").read_text())
    assert (fetch(registered["uri"]) / "denoiser.safetensors").exists()
    restored = Restorer.load(out / "model")(np.zeros((5, 7, 3), np.uint8))
    assert restored.shape == (20, 28, 3)
    assert json.loads((out / "model" / "recipe.json").read_text())["name"] == "toy"

    run = mlflow.MlflowClient().get_run(registered["run_id"])
    logged = run.data
    expected = {"loss", "mse", "lpips", "lr", "grad_norm", "samples_per_second", "data_wait_share", "peak_memory_gib",
                "flops_utilisation", "validation_psnr_y", "validation_start_psnr_y", "validation_lpips_alex",
                "validation_start_lpips_alex"}  # fmt: skip
    assert expected <= logged.metrics.keys()
    assert {f"loss_t{t}" for t in range(4)} & logged.metrics.keys()
    assert logged.metrics["lpips"] > 0
    assert logged.metrics["validation_psnr_y"] > 0
    assert logged.params["training.learning_rate"] == "0.001"
    assert len(logged.tags["dataset.digest"]) == 64
    pictures = [file.path for file in mlflow.MlflowClient().list_artifacts(registered["run_id"], "images")]
    assert any(path.startswith("images/validation") and path.endswith(".png") for path in pictures)
    (trained_on,) = run.inputs.dataset_inputs
    assert logged.tags["dataset.digest"].startswith(trained_on.dataset.digest)
    assert json.loads(trained_on.dataset.source)["uri"] == str(latents)

    again = run_training(toy_recipe(lpips_weight=0.5), str(latents), str(out))
    assert again == f"already registered: toy version 1 ({out}/model)"


def test_a_resumed_run_stays_one_mlflow_run(latents, tmp_path):
    with dying_at(3):
        run_training(toy_recipe(), str(latents), str(tmp_path))
    run_training(toy_recipe(), str(latents), str(tmp_path))
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == [2, 4, 6]
    assert run.info.status == "FINISHED"
    assert len(run.inputs.dataset_inputs) == 1


def test_pairs_encoded_on_the_fly_train_what_their_latents_do(latents, tmp_path):
    pairs = write_dataset(tmp_path / "pairs", "pairs", [6, 6, 5, 6])  # the images of `latents`
    outs = [tmp_path / "from_latents", tmp_path / "from_pairs"]
    raw = toy_recipe(num_steps=3).raw
    encoding = {"autoencoder": {**TOY["autoencoder"], "weights": str(latents / "autoencoder")}}
    recipe = Recipe.from_dict({**raw, "denoiser": {**raw["denoiser"], "dropout": 0.0}, **encoding})
    for out, data in zip(outs, (latents, pairs), strict=True):
        run_training(recipe, str(data), str(out))
    a, b = (Restorer.load(out / "model") for out in outs)
    assert_nearly_same(a.denoiser.state_dict(), b.denoiser.state_dict())
    assert fingerprint(a.autoencoder) == fingerprint(b.autoencoder)


def test_pairs_need_an_autoencoder_that_fits(pairs, latents, tmp_path):
    with pytest.raises(UsageError, match=r"autoencoder.weights: is not set; train one"):
        run_training(toy_recipe(), str(pairs), str(tmp_path))
    raw = toy_recipe().raw
    other = {**raw, "autoencoder": {"network": {**TOY["autoencoder"]["network"], "n_embed": 8},
                                    "weights": str(latents / "autoencoder")}}  # fmt: skip
    with pytest.raises(UsageError, match=r"hold another network than autoencoder\.network"):
        run_training(Recipe.from_dict(other), str(pairs), str(tmp_path))


def test_lpips_on_a_crop_trains_and_must_fit_the_image(latents, tmp_path):
    # The toy's images have 32 pixels, the least that LPIPS takes, so its only crop is the whole.
    whole, cropped = tmp_path / "whole", tmp_path / "cropped"
    run_training(toy_recipe(num_steps=2, lpips_weight=0.5), str(latents), str(whole))
    run_training(toy_recipe(num_steps=2, lpips_weight=0.5, lpips_crop=8), str(latents), str(cropped))
    a, b = (Restorer.load(out / "model").denoiser.state_dict() for out in (whole, cropped))
    assert_nearly_same(a, b)
    with pytest.raises(UsageError, match=r"training.lpips_crop: 4 latent pixels are 16 of the image; give 8 to 8"):
        run_training(toy_recipe(lpips_weight=0.5, lpips_crop=4), str(latents), str(tmp_path / "out"))


def test_images_too_small_for_lpips_are_refused(tmp_path):
    latents = write_dataset(tmp_path / "latents", "latents", [12, 12])
    plan = json.loads((latents / "dataset.json").read_text())
    plan["recipe"]["shards"]["hq_size"] = 16
    (latents / "dataset.json").write_text(json.dumps(plan))
    with pytest.raises(UsageError, match=r"training.lpips_weight: HQ crops of 16 pixels are too small for LPIPS; make"):
        run_training(toy_recipe(lpips_weight=1.0), str(latents), str(tmp_path / "out"))


def test_pixel_space_trains_on_the_pairs_themselves(pairs, tmp_path):
    recipe = toy_recipe(num_steps=2)
    denoiser = {**TOY["denoiser"], "image_size": 32, "lq_size": 32, "channel_mult": [1, 1]}
    recipe = dataclasses.replace(recipe, raw={**recipe.raw, "autoencoder": {"network": None}, "denoiser": denoiser})
    assert "registered: toy" in run_training(recipe, str(pairs), str(tmp_path))
    assert not (tmp_path / "model" / "autoencoder.json").exists()


def test_learning_lowers_the_loss(latents, tmp_path):
    recipe = toy_recipe(num_steps=32, log_every=8, checkpoint_every=32, validation_samples=0, precision="bfloat16")
    run_training(recipe, str(latents), str(tmp_path))
    run_id = json.loads((tmp_path / "registered.json").read_text())["run_id"]
    losses = [metric.value for metric in mlflow.MlflowClient().get_metric_history(run_id, "mse")]
    assert losses[-1] < 0.7 * losses[0]


def test_non_finite_losses_stop_the_run_with_the_sample_keys(latents, tmp_path, monkeypatch):
    good = denoiser_trainer.denoising_loss

    def bad(engine, batch, *arguments, **options):
        loss = good(engine, batch, *arguments, **options)
        return dataclasses.replace(loss, total=loss.total + float("inf"))

    with dying_at(3):
        run_training(toy_recipe(), str(latents), str(tmp_path))
    monkeypatch.setattr(denoiser_trainer, "denoising_loss", bad)
    with pytest.raises(JobError, match="not finite for 2 steps in a row; the samples of the last batch are in"):
        run_training(toy_recipe(max_bad_steps=2), str(latents), str(tmp_path))
    report = json.loads((tmp_path / "bad_step.json").read_text())
    assert report["step"] == 4
    assert len(report["sample_keys"]) == 4


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_a_single_bad_step_is_skipped_and_counted(latents, tmp_path, monkeypatch, zero_stage):
    good, calls = denoiser_trainer.denoising_loss, []

    def bad_once(*arguments, **options):
        loss = good(*arguments, **options)
        calls.append(1)
        return dataclasses.replace(loss, total=loss.total * float("nan")) if len(calls) == 4 else loss

    monkeypatch.setattr(denoiser_trainer, "denoising_loss", bad_once)
    run_training(toy_recipe(zero_stage=zero_stage), str(latents), str(tmp_path))
    state = saved_state(tmp_path, 6)["state.safetensors"]
    assert state["bad_steps"] == {"skipped": 1, "in_a_row": 0}
    assert state["ema"]["num_updates"] == 5
    assert all(value.isfinite().all() for value in state["ema"]["average"].values())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scale": 2}, "scale is 4, recipe 'toy' needs 2"),
        ({"task": "deblurring"}, "task is 'super_resolution', recipe 'toy' needs 'deblurring'"),
        ({"autoencoder": {"network": None}}, "holds latents, this recipe trains on pairs"),
        ({"autoencoder": {"network": {"ch": 64}}}, "was encoded by another network than autoencoder.network"),
        ({"denoiser": {**TOY["denoiser"], "in_channels": 4}}, "denoiser: denoiser has in_channels 4"),
        ({"training": {"global_batch_size": 64}}, "21 samples to train on are fewer than one global batch of 64"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused(latents, tmp_path, change, expected):
    raw = {**TOY, "training": {**TOY["training"], **change.pop("training", {}), "micro_batch_size": 2}, **change}
    with pytest.raises(UsageError, match=expected):
        run_training(toy_recipe().from_dict(raw), str(latents), str(tmp_path))


def test_latents_of_another_autoencoder_are_refused(tmp_path):
    made_by = {"weights_sha256": "0" * 64}
    data = write_dataset(tmp_path / "data", "latents", [6], autoencoder=made_by)
    with pytest.raises(UsageError, match=r"weights_sha256 is .* but the latents were made with '000"):
        run_training(toy_recipe(), str(data), str(tmp_path / "out"))


def test_a_checkpoint_of_another_recipe_is_refused_with_the_differences(latents, tmp_path):
    with dying_at(3):
        run_training(toy_recipe(), str(latents), str(tmp_path))
    with pytest.raises(UsageError, match=r"another recipe \(training.learning_rate: 0.001 -> 0.002\)"):
        run_training(toy_recipe(learning_rate=2e-3), str(latents), str(tmp_path))


def test_a_longer_run_goes_on_and_registers_anew(latents, tmp_path):
    run_training(toy_recipe(num_steps=3), str(latents), str(tmp_path))
    assert "version 2" in run_training(toy_recipe(num_steps=5, checkpoint_every=1), str(latents), str(tmp_path))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000005"]


def test_a_run_that_was_made_shorter_than_it_already_is_registers_nothing(latents, tmp_path):
    with dying_at(3):
        run_training(toy_recipe(), str(latents), str(tmp_path))
    with pytest.raises(UsageError, match=r"num_steps: 2 is less than the 3 steps that .*step-000003 has done"):
        run_training(toy_recipe(num_steps=2), str(latents), str(tmp_path))
    assert not (tmp_path / "registered.json").exists()
    assert "registered" in run_training(toy_recipe(num_steps=3), str(latents), str(tmp_path)), "no step is left to do"


def test_dry_run_prints_the_plan_and_writes_nothing(latents, tmp_path):
    plan = json.loads(run_training(toy_recipe(), str(latents), str(tmp_path / "out"), dry_run=True))
    assert plan["dataset"]["samples"] == 23
    assert plan["recipe"]["training"]["seed"] == 5
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_on_s3_is_named_and_leaves_no_copy(latents, tmp_path, s3, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with dying_at(3):
        run_training(toy_recipe(), str(latents), f"{s3}/run")
    (saved,) = whole_checkpoints(f"{s3}/run/checkpoints")
    state = f"{saved.url}/state.safetensors"
    storage.write_bytes(state, bytes(len(storage.read_bytes(state))))
    with pytest.raises(JobError) as raised:
        run_training(toy_recipe(), str(latents), f"{s3}/run")
    assert str(raised.value).startswith(f"{state}: the checkpoint cannot be read (")
    with pytest.raises(JobError) as raised:
        export_checkpoint(toy_recipe(), str(latents), f"{s3}/run", "newest")
    assert str(raised.value).startswith(f"{state}: the checkpoint cannot be read (")
    assert not list(tmp_path.glob("resshift-*"))


def test_checkpoints_on_s3(latents, tmp_path, s3):
    with dying_at(3):
        run_training(toy_recipe(), str(latents), f"{s3}/run")
    summary = run_training(toy_recipe(), str(latents), f"{s3}/run")
    assert summary == f"registered: toy version 1 ({s3}/run/model)"
    run_training(toy_recipe(), str(latents), str(tmp_path / "local"))
    stored = fetch(f"{s3}/run/model")
    local = tmp_path / "local" / "model"
    assert (stored / "denoiser.safetensors").read_bytes() == (local / "denoiser.safetensors").read_bytes()
    shutil.rmtree(stored)
