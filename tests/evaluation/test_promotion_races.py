"""Promotions at the same time, from several processes, on a real MLflow server."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from evaluation.registry import alias_of, champion_of, client, version_tags
from infra.errors import JobError
from infra.server_process import free_port
from infra.servers import mlflow_server, postgres_server
from infra.tracking import start_run
from tests.evaluation import logged
from tests.evaluation.logged import NAME, log_version

PROGRAM = """
import sys, time
from pathlib import Path
from evaluation import promotion
from infra.errors import JobError
from infra.recipe import load_recipe

version, start, settings = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
check = promotion.check_gates

def check_and_wait(*arguments):  # all have seen the same champion and passed before any may go on
    results = check(*arguments)
    start.with_name(version).touch()
    while not start.exists():
        time.sleep(0.005)
    return results

promotion.check_gates = check_and_wait
try:
    decision = promotion.promote(load_recipe("realsr_x4", settings), {name!r}, version)
except JobError as error:
    print("told:", error)
else:
    print("promoted" if decision.promoted else "refused")
"""
SETTINGS = [
    "promotion.gates=[{metric: psnr_y}]",
    "promotion.max_runtime_ratio=null",  # no runtime is logged for these versions
    "promotion.min_images=5",
    "evaluation.metrics=[psnr_y,ssim_y]",
    "evaluation.bootstrap_resamples=1000",
]


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def server(request, tmp_path, monkeypatch):
    with ExitStack() as servers:
        settings = {}
        if request.param == "PostgreSQL":
            database = postgres_server(tmp_path / "postgres", "secret", free_port())
            try:
                settings = servers.enter_context(database).environment
            except JobError as error:
                if "does not run as root" in str(error):
                    pytest.skip(str(error))
                raise
        artifacts = str(tmp_path / "artifacts")
        running = servers.enter_context(mlflow_server(tmp_path / "mlflow", artifacts, settings, free_port()))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.environment["MLFLOW_TRACKING_URI"])
        monkeypatch.setattr(logged, "new_version", new_version)
        yield running


def new_version() -> str:
    """A server, unlike a store, wants to see the files of a version in a run."""
    registry = client()
    if not registry.search_registered_models(f"name='{NAME}'"):
        registry.create_registered_model(NAME)
    with start_run("tests", "a model") as run:
        source = f"{run.info.artifact_uri}/model"
        return str(registry.create_model_version(NAME, source=source, run_id=run.info.run_id).version)


@pytest.mark.faults
def test_of_promotions_at_once_one_wins_and_the_others_are_told(recipe, tmp_path, server):
    before = log_version(recipe, tmp_path, gain=0.1)
    client().set_registered_model_alias(NAME, "champion", before)
    versions = [log_version(recipe, tmp_path, gain=2.0) for _ in range(3)]
    start = tmp_path / "start"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.replace("{name!r}", repr(NAME)), version, str(start), *SETTINGS],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
        )
        for version in versions
    ]  # fmt: skip
    deadline = time.monotonic() + 120
    while not all((tmp_path / version).exists() for version in versions):
        assert all(process.poll() is None for process in running), [p.communicate() for p in running if p.poll()]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    start.touch()
    said = {}
    for version, process in zip(versions, running, strict=True):
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        said[version] = out.strip()
    (winner,) = [version for version, line in said.items() if line == "promoted"]
    assert (champion_of(NAME), alias_of(NAME, "previous")) == (winner, before)
    for version in set(versions) - {winner}:
        assert said[version].startswith(f"told: model {NAME}: version {winner} became the champion while version ")
        assert "promotion.status" not in version_tags(NAME, version)
    assert version_tags(NAME, winner)["promotion.replaced"] == before
    names = [model.name for model in client().search_registered_models()]
    assert names == [NAME], "the lock is let go"
