"""`--launcher ray`: Ray Train starts the processes and replaces those that are lost."""

import os
import subprocess
import time

import mlflow
import psutil
import pytest

from tests.training.conftest import command, run
from tests.training.ranks import run_ranks
from tests.training.test_denoiser import saved_state
from tests.training.test_resume import assert_close
from training.preemption import EXIT_PREEMPTED
from training.saved import whole_checkpoints

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


def training_workers(process: psutil.Process) -> list[psutil.Process]:
    """Ray Train's workers below a command, busy or idle."""
    found = []
    for child in process.children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda worker: worker.pid)


def test_a_killed_worker_is_replaced_and_the_run_goes_on(latents, recipe_file, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    options = ["--recipe", recipe_file, "--data", latents, "training.num_steps=60", "training.checkpoint_every=5",
               "training.keep_checkpoints=99", "training.validation_samples=0", "training.zero_stage=1"]  # fmt: skip
    arguments = [*options, "--out", out, "--launcher", "ray", "--workers", 2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as stream:
        process = subprocess.Popen(command("train", *arguments), env=environment, stdout=stream, stderr=stream)
        try:
            deadline = time.monotonic() + 240
            while not (out / "checkpoints" / "step-000005").exists():
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.02)
            first = training_workers(psutil.Process(process.pid))
            assert len(first) == 2
            first[1].kill()
            assert process.wait(timeout=300) == 0, log.read_text()[-3000:]
        finally:
            process.kill()
    assert f"registered: toy version 1 ({out}/model)" in log.read_text()
    starts = [line for line in log.read_text().splitlines() if "training denoiser: " in line]
    assert len({line.partition("pid=")[2].partition(")")[0] for line in starts}) == 2, "two main processes in turn"
    client = mlflow.MlflowClient()
    assert len(client.search_runs([client.get_experiment_by_name("toy").experiment_id])) == 1

    run_ranks("train", [*options, "--out", tmp_path / "whole"], tmp_path, ranks=2)
    assert_close(saved_state(out, 60), saved_state(tmp_path / "whole", 60), 0.0)


def test_sigterm_to_the_command_saves_and_leaves_with_the_documented_code(latents, recipe_file, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = ["--recipe", recipe_file, "--data", latents, "training.num_steps=100_000", "--out", out,
                 "training.checkpoint_every=100_000", "training.validation_samples=0", "--launcher", "ray",
                 "--workers", 2]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as stream:
        process = subprocess.Popen(command("train", *arguments), env=environment, stdout=stream, stderr=stream)
        try:
            deadline = time.monotonic() + 240
            while "/100000 steps" not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.1)
            process.terminate()
            assert process.wait(timeout=60) == EXIT_PREEMPTED, log.read_text()[-3000:]
        finally:
            process.kill()
    (saved,) = whole_checkpoints(str(out / "checkpoints"))
    assert 1 <= saved.step < 100_000
    # An actor that Ray Train has for itself may complain when it is taken down.
    lines = [line for line in log.read_text().splitlines() if "(PlacementGroupCleaner " not in line]
    assert any(f"stopped by SIGTERM, saved at step {saved.step}; run the same command again" in line for line in lines)
    assert not any("Traceback" in line for line in lines)


def test_what_does_not_fit_is_one_line(latents, recipe_file, tmp_path):
    arguments = ["--recipe", recipe_file, "--data", latents, "--out", tmp_path, "--launcher", "ray", "--workers", 2]
    done = run("train", *arguments, "training.global_batch_size=3", "training.micro_batch_size=1", check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: training.global_batch_size: 3 does not divide among 2 processes; choose a multiple of the process count"
    ]
    done = run("train", *arguments[:-4], "--workers", 2, check=False)
    assert done.returncode == 2
    assert "--workers 2: only --launcher ray starts processes" in done.stderr
