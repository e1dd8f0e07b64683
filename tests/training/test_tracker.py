"""A tracking server that is away: training goes on, and nothing of its record is lost."""

import json
from contextlib import ExitStack

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

from infra import tracking
from infra.errors import JobError
from infra.server_process import free_port
from infra.servers import mlflow_server
from infra.tracking import start_run
from tests.training.conftest import toy_recipe
from training import denoiser_trainer, outbox
from training.checkpoint import Checkpoints
from training.denoiser_run import run_training
from training.engine import join_processes
from training.outbox import Outbox
from training.tracker import track

PICTURE = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture(autouse=True)
def private_store(mlflow_store):
    return mlflow_store


class Server:
    """Answers or does not; counts how often it is asked."""

    def __init__(self, monkeypatch) -> None:
        self.reason, self.asked, self.now = None, 0, 0.0
        monkeypatch.setattr(outbox, "why_away", self.why_away)
        monkeypatch.setattr(outbox.time, "monotonic", lambda: self.now)

    def why_away(self) -> str | None:
        self.asked += 1
        return self.reason


def steps_of(run_id: str, name: str = "loss") -> list[int]:
    return sorted(metric.step for metric in MlflowClient().get_metric_history(run_id, name))


def test_figures_wait_for_the_server_with_one_warning_and_a_try_a_minute(tmp_path, monkeypatch, capsys):
    server = Server(monkeypatch)
    with start_run("tests", "training") as run:
        box = Outbox(run.info.run_id, str(tmp_path / "figures.json"))
        box.metrics(1, {"loss": 1.0})
        assert steps_of(box.run_id) == [1]
        server.reason, server.asked = "http://here: nobody listens there", 0
        for step in range(2, 1302):
            server.now += 0.1  # 130 seconds in all
            box.metrics(step, {"loss": 1.0 / step})
        box.image("validation", 2, PICTURE)
        assert server.asked == 3
        assert capsys.readouterr().err == (
            "warning: MLflow at http://here: nobody listens there; training goes on, its figures are sent later\n"
        )
        server.reason = None
        server.now += outbox.RETRY_SECONDS
        box.metrics(1302, {"loss": 0.5})
        assert steps_of(box.run_id) == list(range(1, 1303))
        assert len(MlflowClient().list_artifacts(box.run_id, "images")) == 2, "in full and as a thumbnail"
        box.close()
    assert not (tmp_path / "figures.json").exists()


def test_a_server_that_refuses_is_as_good_as_away(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise MlflowException("the database is locked\nand more", INTERNAL_ERROR)

    with start_run("tests", "training") as run:
        box = Outbox(run.info.run_id, str(tmp_path / "figures.json"))
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", refuse)
            box.metrics(1, {"loss": 1.0})
        assert "the database is locked; training goes on" in capsys.readouterr().err
        box.deliver()
        assert steps_of(box.run_id) == [1]


def test_what_could_not_be_sent_is_one_error_and_is_sent_by_the_next_start(tmp_path, monkeypatch):
    server, location = Server(monkeypatch), tmp_path / "figures.json"
    with start_run("tests", "training") as run:
        server.reason = "http://here: nobody listens there"
        box = Outbox(run.info.run_id, str(location))
        box.metrics(1, {"loss": 1.0, "mse": float("nan")})
        box.image("validation", 1, PICTURE)
        with pytest.raises(JobError, match=r"2 figures and 1 pictures .* not sent yet; .* run the same command again"):
            box.deliver()
        box.close()
        server.reason = None
        again = Outbox(run.info.run_id, str(location))
        again.deliver()
        again.close()
        assert (steps_of(box.run_id), steps_of(box.run_id, "mse")) == ([1], [1])
        assert not location.exists()


def test_memory_is_bounded_and_the_latest_figures_stay(tmp_path, monkeypatch):
    server = Server(monkeypatch)
    server.reason = "away"
    monkeypatch.setattr(outbox, "MOST_METRICS", 5)
    with start_run("tests", "training") as run:
        box = Outbox(run.info.run_id, str(tmp_path / "figures.json"))
        for step in range(9):
            box.metrics(step, {"loss": 1.0})
        server.reason = None
        box.deliver()
        assert steps_of(box.run_id) == [4, 5, 6, 7, 8]


def test_only_a_run_that_is_not_there_is_begun_anew(tmp_path, monkeypatch):
    def open_run() -> str:
        with track(join_processes(), str(tmp_path), "training", {"name": "toy"}, {}) as tracker:
            return tracker.run_id

    def fail(*_):
        raise MlflowException("the database is locked", INTERNAL_ERROR)

    first = open_run()
    assert open_run() == first
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_run", fail)
        with pytest.raises(JobError, match="the database is locked; check"):
            open_run()
    assert open_run() == first
    (tmp_path / "mlflow_run.json").write_text(json.dumps({"run_id": "0" * 32}))
    assert open_run() != first


def test_an_end_without_the_server_does_not_hide_why(monkeypatch):
    def fail(*_, **__):
        raise MlflowException("away", INTERNAL_ERROR)

    monkeypatch.setattr(MlflowClient, "set_terminated", fail)
    with pytest.raises(SystemExit), start_run("tests", "stopped"):
        raise SystemExit(143)
    with pytest.raises(JobError, match="away; check MLFLOW_TRACKING_URI"), start_run("tests", "done"):
        pass


@pytest.mark.faults
def test_a_run_outlives_its_tracking_server(latents, tmp_path, monkeypatch, capfd):
    """Killed in step 2 and back in step 5; killed again in step 7 of 8, and back for the same command."""
    port = free_port()
    with ExitStack() as servers:

        def begin():
            return servers.enter_context(mlflow_server(tmp_path / "server", str(tmp_path / "artifacts"), {}, port))

        running = [begin()]
        uri = running[0].environment["MLFLOW_TRACKING_URI"]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setattr(tracking, "ANSWER_SECONDS", 1.0)
        monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.0)
        good = denoiser_trainer.denoising_loss

        def loss_in_a_bad_neighbourhood(engine, *arguments, **options):
            step = engine.global_steps + 1
            if step in (2, 7) and running:
                running.pop().kill()
            if step == 5 and not running:
                running.append(begin())
            return good(engine, *arguments, **options)

        monkeypatch.setattr(denoiser_trainer, "denoising_loss", loss_in_a_bad_neighbourhood)
        saved = []
        save = Checkpoints.save
        monkeypatch.setattr(
            Checkpoints, "save", lambda self, step, *rest: (saved.append(step), save(self, step, *rest))
        )
        recipe = toy_recipe(num_steps=8, checkpoint_every=8, log_every=1)
        with pytest.raises(JobError, match=r"nobody listens there; \d+ figures and \d+ pictures .* are not sent yet"):
            run_training(recipe, str(latents), str(tmp_path / "out"))
        assert saved == [8]
        assert capfd.readouterr().err.count("warning: MLflow at") == 2

        begin()
        assert run_training(recipe, str(latents), str(tmp_path / "out")).startswith("registered: toy version 1")
        assert saved == [8]
        client = mlflow.MlflowClient()
        (run,) = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
        assert steps_of(run.info.run_id) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert run.info.status == "FINISHED"
