"""The same arithmetic at every ZeRO stage: clipping, the float32 average, skipped steps; and torch.compile."""

import json
import math
import shutil

import pytest
import torch

from infra.recipe import Recipe
from tests.training.conftest import TOY, toy_recipe
from tests.training.ranks import Fate, start, wait
from tests.training.test_denoiser import assert_nearly_same, dying_at, saved_state
from tests.training.test_resume import assert_close
from training import denoiser_trainer
from training.denoiser_run import run_training
from training.ema import Ema

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_the_average_is_that_of_float32_master_weights(latents, tmp_path, monkeypatch, zero_stage):
    """Under bfloat16 autocast, against the recursion in float64 over what the optimizer holds after each step."""
    from deepspeed.utils import safe_get_full_fp32_param

    seen: list[dict[str, torch.Tensor]] = []

    class Watched(Ema):
        def __init__(self, module, decay):
            super().__init__(module, decay)
            seen.append({name: value.double().clone() for name, value in self.average.items()})

        def update(self, module):
            super().update(module)
            masters = {}
            for name, parameter in module.named_parameters():
                assert parameter.dtype == torch.float32
                master = safe_get_full_fp32_param(parameter) if zero_stage else parameter
                assert torch.equal(master, parameter), "the network holds its own master weights"
                masters[name] = master.detach().double().clone()
            seen.append(masters)

    monkeypatch.setattr(denoiser_trainer, "Ema", Watched)
    run_training(toy_recipe(zero_stage=zero_stage, precision="bfloat16"), str(latents), str(tmp_path))
    expected, *steps = seen
    assert len(steps) == 6
    for n, masters in enumerate(steps):
        decay = min(0.9, (1 + n) / (10 + n))
        expected |= {name: decay * expected[name] + (1 - decay) * value for name, value in masters.items()}
    average = saved_state(tmp_path, 6)["state.safetensors"]["ema"]["average"]
    for name in steps[0]:
        assert average[name].dtype == torch.float32
        torch.testing.assert_close(average[name].double(), expected[name], rtol=1e-5, atol=1e-7)


def test_clipping_is_the_same_at_every_stage(latents, tmp_path):
    """AdamW's steps hardly tell (it divides by the gradient's size), its moments do."""
    weights = {}
    for name, values in {
        "free": {"zero_stage": 0, "grad_clip": 1e9},
        **{stage: {"zero_stage": stage, "grad_clip": 1e-3} for stage in (0, 1, 2)},
    }.items():
        raw = toy_recipe(num_steps=3, validation_samples=0, **values).raw
        recipe = Recipe.from_dict({**raw, "denoiser": {**TOY["denoiser"], "dropout": 0.0}})
        run_training(recipe, str(latents), str(tmp_path / str(name)))
        state = saved_state(tmp_path / str(name), 3)
        weights[name] = state["denoiser/weights.safetensors"]
        moments = state["denoiser/optimizer-0.safetensors"].values()
        norm = math.sqrt(sum(float(piece["exp_avg"].square().sum()) for piece in moments))
        assert (norm < 1e-3) == (name != "free"), "the first moment is an average of clipped gradients"
    for stage in (1, 2):
        assert_nearly_same(weights[stage], weights[0])


@pytest.mark.parametrize(("before", "after"), [(0, 2), (1, 0)])
def test_a_run_may_go_on_at_another_stage(latents, tmp_path, before, after):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_training(toy_recipe(zero_stage=before), str(latents), str(whole))
    with dying_at(3):
        run_training(toy_recipe(zero_stage=before), str(latents), str(parts))
    run_training(toy_recipe(zero_stage=after), str(latents), str(parts))
    assert_close(saved_state(parts, 6), saved_state(whole, 6), 1e-4)


def test_a_loss_that_is_not_finite_in_one_rank_stops_all_with_the_keys_of_all(latents, recipe_file, tmp_path):
    out = tmp_path / "out"
    arguments = ["--recipe", recipe_file, "--data", latents, "--out", out, "training.max_bad_steps=2"]
    started = start("train", arguments, tmp_path, ranks=2, fates={1: Fate("nan", 4)})
    assert wait(started) == [1, 1]
    (line,) = [line for rank in started for line in rank.stderr.splitlines() if "error" in line]
    assert line.startswith("error: step 4: loss or gradient was not finite for 2 steps in a row; the samples of ")
    report = json.loads((out / "bad_step.json").read_text())
    assert len(set(report["sample_keys"])) == 4
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000003"]


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_torch_compile_and_bfloat16_learn_the_same(latents, tmp_path):
    losses = {}
    for compiled in (False, True):
        raw = toy_recipe(num_steps=2, precision="bfloat16", validation_samples=0, compile=compiled).raw
        recipe = Recipe.from_dict({**raw, "denoiser": {**TOY["denoiser"], "dropout": 0.0}})
        run_training(recipe, str(latents), str(tmp_path / str(compiled)))
        losses[compiled] = saved_state(tmp_path / str(compiled), 2)["denoiser/weights.safetensors"]
    for name, value in losses[False].items():
        assert (losses[True][name] - value).abs().mean() < 1e-3, name
