"""The command with real processes: killed in the middle, several ranks, wrong usage."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from infra.recipe import load_recipe
from resshift.restorer import Restorer
from tests.training.conftest import command, run
from tests.training.test_denoiser import assert_nearly_same
from training.denoiser_run import run_training


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


def model_bytes(out: Path) -> bytes:
    return (out / "model" / "denoiser.safetensors").read_bytes()


def test_killed_in_the_middle_the_same_command_goes_on(latents, recipe_file, tmp_path):
    out = tmp_path / "killed"
    options = ["training.num_steps=400", "training.checkpoint_every=4", "training.validation_samples=0"]
    arguments = ["train", "--recipe", recipe_file, "--data", latents, "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command(*arguments, out, *options), env=env, stderr=log, stdout=log)
        deadline = time.monotonic() + 60
        while not list(out.glob("checkpoints/step-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    saved = sorted(int(path.name[5:]) for path in out.glob("checkpoints/step-*"))
    assert saved, (tmp_path / "log").read_text()[-2000:]
    until = saved[-1] + 4
    options[0] = f"training.num_steps={until}"
    assert f"registered: toy version 1 ({out}/model)" in run(*arguments, out, *options).stdout
    assert (out / "checkpoints" / f"step-{until:06d}" / "COMPLETE.json").exists()


def test_two_ranks_train_what_one_does(latents, recipe_file, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["training.num_steps=3", "training.zero_stage=1", "denoiser.dropout=0"]
    arguments = ["--recipe", recipe_file, "--data", latents, "--out", two, *options]
    done = run("train", *arguments, processes=2)
    assert done.stdout.splitlines() == [f"registered: toy version 1 ({two}/model)"]
    assert sum("training denoiser: 3/3" in line for line in done.stderr.splitlines()) == 1, "one rank talks"
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
