"""Ended from outside: kill -9, SIGTERM, a full disk. The same command goes on from the last whole checkpoint."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from infra import storage
from tests.training.conftest import command
from tests.training.ranks import Fate, run_ranks, start, wait
from tests.training.test_denoiser import assert_same, saved_state
from training.preemption import EXIT_PREEMPTED

STEPS = 40


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


@pytest.fixture(scope="module")
def whole(tmp_path_factory, recipe_file, latents, empty_mlflow_database) -> Path:
    """What a run of six steps leaves that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copy(empty_mlflow_database, folder / "mlflow.db")
    arguments = ["--recipe", recipe_file, "--data", latents, "--out", folder]
    run_ranks("train", arguments, folder, environments=[{"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}])
    return folder


@pytest.fixture
def options(recipe_file, latents) -> list[object]:
    return ["--recipe", recipe_file, "--data", latents, "training.keep_checkpoints=1", "--out"]


def steps(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def saw(text: str, read, seconds: float = 60) -> None:
    """Wait until `read()` contains `text`."""
    deadline = time.monotonic() + seconds
    while text not in read():
        assert time.monotonic() < deadline, read()[-2000:]
        time.sleep(0.02)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("fate", "left"),
    [
        (Fate("step", 5), ["step-000003"]),
        (Fate("writing", 6), [".tmp-step-000006", "step-000003"]),
        (Fate("marking", 6), [".tmp-step-000006", "step-000003"]),
        (Fate("cleaning", 6), ["step-000003", "step-000006"]),
    ],
)
def test_killed_anywhere_the_same_command_ends_with_the_same_weights(options, whole, tmp_path, fate, left):
    killed = tmp_path / "killed"
    assert wait(start("train", [*options, killed], tmp_path, fates={0: fate})) == [-signal.SIGKILL]
    assert steps(killed) == left
    run_ranks("train", [*options, killed], tmp_path)
    assert steps(killed) == ["step-000006"]
    assert_same(saved_state(whole, 6), saved_state(killed, 6))


@pytest.mark.faults
def test_killed_while_uploading(options, whole, tmp_path, s3):
    killed = f"{s3}/killed"
    assert wait(start("train", [*options, killed], tmp_path, fates={0: Fate("marking", 6)})) == [-signal.SIGKILL]
    assert storage.exists(f"{killed}/checkpoints/step-000006/state.safetensors")
    assert not storage.exists(f"{killed}/checkpoints/step-000006/COMPLETE.json")
    run_ranks("train", [*options, killed], tmp_path)
    names = [entry.name for entry in storage.list_files(f"{killed}/checkpoints")]
    assert {name.partition("/")[0] for name in names} == {"step-000006"}
    storage.local_folder(f"{killed}/checkpoints/step-000006", tmp_path / "fetched" / "checkpoints" / "step-000006")
    assert_same(saved_state(whole, 6), saved_state(tmp_path / "fetched", 6))


@pytest.mark.faults
def test_a_lost_rank_ends_the_others_too(options, tmp_path):
    out = tmp_path / "out"
    started = start("train", [*options, out], tmp_path, ranks=2, fates={1: Fate("step", 5)})
    codes = wait(started, seconds=60)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, EXIT_PREEMPTED)
    run_ranks("train", [*options, out], tmp_path, ranks=2)
    assert steps(out) == ["step-000006"]


@pytest.mark.faults
def test_a_damaged_checkpoint_is_not_used(options, whole, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(whole, damaged)
    weights = damaged / "checkpoints" / "step-000006" / "denoiser" / "weights.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    for file in ("registered.json", "mlflow_run.json"):
        (damaged / file).unlink()
    (again,) = run_ranks("train", [*options, damaged, "training.keep_checkpoints=2"], tmp_path)
    assert "step-000006: not used, denoiser/weights.safetensors is missing or cut short" in again.stderr
    assert_same(saved_state(whole, 6), saved_state(damaged, 6))


def long(options: list[object], out: Path) -> list[object]:
    return [*options, out, f"training.num_steps={STEPS}", "training.checkpoint_every=1000", "training.log_every=1000"]


@pytest.mark.faults
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_saves_at_the_next_step_and_leaves_with_the_documented_code(options, tmp_path, ranks):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_ranks("train", long(options, whole), tmp_path, ranks)
    started = start("train", long(options, stopped), tmp_path, ranks)
    saw("1/40 steps", lambda: started[0].stderr)
    started[-1].process.terminate()  # with two ranks only the second hears of it
    assert wait(started) == [EXIT_PREEMPTED] * ranks
    (saved,) = steps(stopped)
    step = int(saved.removeprefix("step-"))
    assert 1 <= step < STEPS
    (line,) = [line for rank in started for line in rank.stderr.splitlines() if "SIGTERM" in line]
    assert line == f"stopped by SIGTERM, saved at step {step}; run the same command again to go on"

    again = run_ranks("train", long(options, stopped), tmp_path, ranks)
    assert f": {step + 1}/40 steps" in again[0].stderr
    assert_same(saved_state(whole, STEPS), saved_state(stopped, STEPS))


@pytest.mark.faults
def test_sigterm_to_torchrun(options, tmp_path):
    """torchrun passes the signal on to its processes and waits for them."""
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = [str(argument) for argument in long(options, out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as stream:
        process = subprocess.Popen(
            command("train", *arguments, processes=2), env=environment, stdout=stream, stderr=stream
        )
        try:
            saw("1/40 steps", log.read_text)
            process.terminate()
            assert process.wait(timeout=60) == 1  # torchrun's own code, whatever its processes return
        finally:
            process.kill()
    (saved,) = steps(out)
    assert log.read_text().count(f"saved at step {int(saved.removeprefix('step-'))}; run the same command") == 1
    again = run_ranks("train", arguments, tmp_path, ranks=2)
    assert "40/40 steps" in again[0].stderr


@pytest.mark.faults
def test_a_full_disk_is_one_line_and_leaves_the_earlier_checkpoint(options, tmp_path):
    whole, full = tmp_path / "whole", tmp_path / "full"
    # The network is larger than the tracking store, which must be able to grow.
    bigger = ["denoiser.model_channels=64", "training.zero_stage=1"]
    run_ranks("train", [*options, whole, *bigger], tmp_path, ranks=2)
    dying = {0: Fate("saved", 3), 1: Fate("saved", 3)}
    wait(start("train", [*options, full, *bigger], tmp_path, ranks=2, fates=dying))
    started = start("train", [*options, full, *bigger], tmp_path, ranks=2, limit_bytes=2 << 20)
    assert wait(started) == [1, 1]
    (line,) = [line for rank in started for line in rank.stderr.splitlines() if "error" in line.lower()]
    assert line.startswith("error: ")
    assert "the checkpoint cannot be written (File too large); earlier ones are whole: make room" in line
    assert steps(full) == ["step-000003"]
    run_ranks("train", [*options, full, *bigger], tmp_path, ranks=2)
    assert_same(saved_state(whole, 6), saved_state(full, 6))
