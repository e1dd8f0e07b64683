"""Right ranks under every launcher, agreement at the start, and one line for what does not fit."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from infra import storage
from infra.errors import UsageError
from infra.server_process import free_port
from infra.version import code_version
from tests.training.conftest import write_dataset
from tests.training.ranks import TRAINING, Fate, run_ranks, start, wait
from tests.training.test_denoiser import assert_same, saved_state
from training.launch import first_node, translate_slurm

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


@pytest.fixture
def options(recipe_file, latents) -> list[object]:
    return ["--recipe", recipe_file, "--data", latents, "--out"]


def srun_environment(rank: int, ranks: int = 2, **more: str) -> dict[str, str]:
    """What srun gives task `rank` of a step with one task on each of two nodes."""
    return {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank), "SLURM_LOCALID": "0",
        "SLURM_NTASKS": str(ranks), "SLURM_STEP_NUM_TASKS": str(ranks), "SLURM_STEP_NODELIST": "localhost,other",
        **more,
    }  # fmt: skip


def the_only_line(started) -> str:
    """What all ranks together wrote to stderr."""
    lines = [f"rank {number}: {line}" for number, rank in enumerate(started) for line in rank.stderr.splitlines()]
    assert len(lines) == 1, "\n".join(lines)
    return lines[0].partition(": ")[2]


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("gpu003", "gpu003"),
        ("gpu[003-004,007],login1", "gpu003"),
        ("a-b[12,14-19]-ib,c", "a-b12-ib"),
        ("login1,gpu[1-2]", "login1"),
        ("10.0.0.7,10.0.0.8", "10.0.0.7"),
    ],
)
def test_first_node_of_slurms_list(listed, first):
    assert first_node(listed) == first


def test_slurms_names_are_translated_for_tasks_alone():
    task = srun_environment(1, SLURM_JOB_ID="77", SLURM_STEP_NODELIST="gpu[03-04]")
    translate_slurm(task)
    assert (task["RANK"], task["WORLD_SIZE"], task["LOCAL_RANK"], task["MASTER_ADDR"]) == ("1", "2", "0", "gpu03")
    again = srun_environment(0, SLURM_JOB_ID="77", SLURM_STEP_NODELIST="gpu[03-04]")
    translate_slurm(again)
    assert again["MASTER_PORT"] == task["MASTER_PORT"]

    script = {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}  # sbatch's shell, not a task of srun
    under_torchrun = srun_environment(1, RANK="5", WORLD_SIZE="8")
    for environment in (script, under_torchrun):
        before = dict(environment)
        translate_slurm(environment)
        assert environment == before
    with pytest.raises(UsageError, match="SLURM_STEP_NODELIST: '' names no node; set MASTER_ADDR"):
        translate_slurm(srun_environment(0, SLURM_STEP_NODELIST=""))


def test_two_nodes_under_srun_with_s3_go_on_in_the_same_mlflow_run(options, tmp_path, s3):
    """Nodes that share nothing but S3: each has its own temporary folder, and local rank 0."""
    folders = [tmp_path / name for name in ("node0", "node1")]
    for folder in folders:
        folder.mkdir()
    port = str(free_port())
    nodes = [srun_environment(rank, MASTER_PORT=port, TMPDIR=str(folders[rank])) for rank in range(2)]
    arguments = [*options, f"{s3}/run", "training.zero_stage=1"]
    dying = {0: Fate("saved", 3), 1: Fate("saved", 3)}
    assert wait(start("train", arguments, tmp_path, environments=nodes, fates=dying)) == [-9, -9]
    marker = storage.read_json(f"{s3}/run/checkpoints/step-000003/COMPLETE.json")
    assert marker["world_size"] == 2
    assert {f"denoiser/optimizer-{rank}.safetensors" for rank in range(2)} < marker["files"].keys()
    first_run = storage.read_json(f"{s3}/run/mlflow_run.json")["run_id"]

    started = run_ranks("train", arguments, tmp_path, environments=nodes)
    assert started[0].stdout == f"registered: toy version 1 ({s3}/run/model)\n"
    assert started[1].stdout == ""
    assert "steps" not in started[1].stderr
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert run.info.run_id == first_run
    assert [metric.step for metric in client.get_metric_history(first_run, "loss")] == [2, 4, 6]
    assert not any(list(folder.glob("resshift-*")) for folder in folders), "nothing stays behind in /tmp"


@pytest.mark.faults
def test_the_deepspeed_launcher_on_two_nodes(options, tmp_path):
    """What `deepspeed --hostfile` runs on each node through ssh."""
    world = base64.urlsafe_b64encode(json.dumps({"node0": [0], "node1": [0]}).encode()).decode()
    arguments = [str(argument) for argument in (*options, tmp_path / "out")]
    port = free_port()
    launchers = [
        subprocess.Popen(
            [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", f"--node_rank={node}",
             "--master_addr=127.0.0.1", f"--master_port={port}", str(TRAINING / "train.py"), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    outputs = [launcher.communicate(timeout=120) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    assert sum(output.count("registered: toy version 1") for output, _ in outputs) == 1
    run_ranks("train", [*options, tmp_path / "other"], tmp_path, ranks=2)
    assert_same(saved_state(tmp_path / "out", 6), saved_state(tmp_path / "other", 6))


def test_processes_that_disagree_stop_at_the_start(options, tmp_path):
    extra = {0: ["training.seed=5"], 1: ["training.seed=6", "denoiser.dropout=0.2"]}
    started = start("train", [*options, tmp_path / "out"], tmp_path, ranks=2, extra=extra)
    assert wait(started) == [2, 2]
    line = the_only_line(started)
    assert "process 1 on " in line
    assert "(recipe.denoiser.dropout: 0.1 -> 0.2; recipe.training.seed: 5 -> 6); give all the same arguments" in line
    assert not (tmp_path / "out").exists()


def test_another_version_of_the_code_on_one_node_stops_at_the_start(options, tmp_path):
    started = start("train", [*options, tmp_path / "out"], tmp_path, ranks=2, fates={1: Fate("other code", 0)})
    assert wait(started) == [2, 2]
    line = the_only_line(started)
    assert f'(code: "{code_version()}" -> "0.0.1 (another)"); give all the same arguments' in line


def test_a_dataset_that_differs_on_one_node_stops_at_the_start(recipe_file, latents, tmp_path):
    other = write_dataset(tmp_path / "other", "latents", [6, 6, 6])
    arguments = ["--recipe", recipe_file, "--out", tmp_path / "out"]
    extra = {0: ["--data", latents], 1: ["--data", other]}
    started = start("train", arguments, tmp_path, ranks=2, extra=extra)
    assert wait(started) == [2, 2]
    line = the_only_line(started)
    assert "(recipe.dataset: " in line


def test_an_out_folder_that_nodes_do_not_share_is_refused(options, tmp_path):
    port, nodes = str(free_port()), []
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        nodes.append(srun_environment(rank, MASTER_PORT=port, PWD=str(tmp_path / str(rank))))
    started = start("train", [*options, "out"], tmp_path, environments=nodes)
    assert wait(started) == [2, 2]
    line = the_only_line(started)
    assert "--out out: is another folder on " in line
    assert list((tmp_path / "0" / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("override", "code", "expected"),
    [
        ("training.global_batch_size=3", 2, "training.global_batch_size: 3 does not divide among 2 processes"),
        ("training.sed=1", 2, "training.sed: unknown key"),
        ("training.learning_rate=0.002", 2, "belongs to another recipe (training.learning_rate: 0.001 -> 0.002)"),
        ("schedule.num_steps=5", 2, "belongs to another recipe (schedule.num_steps: 4 -> 5)"),
    ],
)
def test_what_does_not_fit_is_said_once_by_two_ranks(options, tmp_path, trained, override, code, expected):
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    started = start("train", [*options, out, "training.micro_batch_size=1", override], tmp_path, ranks=2)
    assert wait(started) == [code, code]
    line = the_only_line(started)
    assert line.startswith("error: ")
    assert expected in line


def test_too_few_shards_are_said_once(recipe_file, tmp_path):
    single = write_dataset(tmp_path / "single", "latents", [12])
    arguments = ["--recipe", recipe_file, "--out", tmp_path / "out", "--data"]
    started = start("train", [*arguments, single], tmp_path, ranks=2)
    assert wait(started) == [2, 2]
    line = the_only_line(started)
    assert "1 shards are too few for 2 processes" in line


@pytest.fixture(scope="module")
def trained(tmp_path_factory, recipe_file, latents, empty_mlflow_database) -> Path:
    """A run that was killed after its first checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(empty_mlflow_database, folder / "mlflow.db")
    environments = [{"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}]
    arguments = ["--recipe", recipe_file, "--data", latents, "--out", folder]
    wait(start("train", arguments, folder, environments=environments, fates={0: Fate("saved", 3)}))
    return folder
