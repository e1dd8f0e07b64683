"""The command in two processes, and with wrong usage."""

import json

import pytest

from infra.recipe import load_recipe
from resshift.restorer import Restorer
from tests.training.conftest import run
from tests.training.ranks import run_ranks
from tests.training.test_denoiser import assert_nearly_same
from training.denoiser_run import run_training


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


@pytest.mark.slow
def test_two_ranks_train_what_one_does(latents, recipe_file, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["training.num_steps=3", "training.zero_stage=1", "denoiser.dropout=0"]
    arguments = ["--recipe", recipe_file, "--data", latents, "--out", two, *options]
    first, second = run_ranks("train", arguments, tmp_path, ranks=2)
    assert first.stdout.splitlines() == [f"registered: toy version 1 ({two}/model)"]
    assert "training denoiser: 3/3" in first.stderr
    assert second.stdout == second.stderr == "", "one rank talks"
    marker = json.loads((two / "checkpoints" / "step-000003" / "COMPLETE.json").read_text())
    assert marker["world_size"] == 2
    assert len([name for name in marker["files"] if "optimizer-" in name]) == 2

    recipe = load_recipe(str(recipe_file), options)
    run_training(recipe, str(latents), str(one))
    assert_nearly_same(*(Restorer.load(out / "model").denoiser.state_dict() for out in (one, two)))


def test_wrong_usage_is_one_line_and_exit_code_2(latents, recipe_file, tmp_path):
    arguments = ["--recipe", recipe_file, "--data", latents, "--out", tmp_path, "training.sed=1"]
    done = run("train", *arguments, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: training.sed: unknown key; valid keys:")
