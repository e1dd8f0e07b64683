"""A bundle becomes a registered pyfunc version and comes back by every kind of URI."""

import tempfile

import mlflow
import numpy as np
import pytest
import torch

from infra import tracking
from infra.errors import JobError, UsageError
from infra.models import fetch, register, version_of
from infra.server_process import free_port
from infra.tracking import download, start_run
from resshift.restorer import Restorer
from resshift.schedule import EtaSchedule
from resshift.swin_unet import SwinUNet
from resshift.swin_unet_config import SwinUNetConfig

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 9, 11, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    config = SwinUNetConfig(
        image_size=8, model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(8,),
        swin_embed_dim=32, num_head_channels=32, lq_size=8,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bundle") / "model"
    Restorer(SwinUNet(config), None, EtaSchedule.exponential(num_steps=2), scale=1, task="deblurring").save(folder)
    return folder


def test_register_load_and_fetch(bundle, mlflow_store):
    with start_run("tests", "a run") as run:
        version = register(bundle, "tiny", run_id=run.info.run_id, tags={"dataset": "d"})
    assert version == "1"
    client = mlflow.MlflowClient()
    assert client.get_model_version("tiny", "1").tags["dataset"] == "d"
    client.set_registered_model_alias("tiny", "champion", "1")
    assert version_of("models:/tiny@champion") == ("tiny", "1")
    for uri in ("models:/tiny@champion", "models:/tiny/1", f"runs:/{run.info.run_id}/model", str(bundle)):
        assert (fetch(uri) / "denoiser.safetensors").read_bytes() == (bundle / "denoiser.safetensors").read_bytes()
    loaded = mlflow.pyfunc.load_model("models:/tiny@champion")
    restored = loaded.predict({"image": IMAGE}, params={"seed": 3})
    np.testing.assert_array_equal(restored["image"][0], Restorer.load(bundle).prepare()(IMAGE[0], seed=3))


def test_a_second_registration_is_a_second_version(bundle, mlflow_store):
    with start_run("tests", "a run") as run:
        first = register(bundle, "tiny", run_id=run.info.run_id)
        second = register(bundle, "tiny", run_id=run.info.run_id)
    assert (first, second) == ("1", "2")
    with pytest.raises(UsageError, match="'tiny' has the versions 1, 2"):
        fetch("models:/tiny/7")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("models:/nothing@champion", "registered models at sqlite.*: none"),
        ("models:/nothing/1", "registered models at sqlite.*: none"),
        ("/nowhere", "no model bundle there"),
    ],
)
def test_what_does_not_exist(uri, expected, mlflow_store):
    with pytest.raises(UsageError, match=expected):
        fetch(uri)


@pytest.mark.parametrize("uri", ["models:/tiny@champion", "models:/tiny/1", "runs:/0123/model"])
def test_a_server_that_is_down_is_one_clear_line(uri, monkeypatch):
    monkeypatch.setattr(tracking, "ANSWER_SECONDS", 0.2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(JobError, match="nobody listens there; check MLFLOW_TRACKING_URI and the server"):
        fetch(uri)


def test_a_server_that_goes_down_later_is_one_clear_line(monkeypatch):
    """The first answer came; what fails afterwards is no reason to say that the model does not exist."""
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "_require_answer", lambda _: None)
    with pytest.raises(JobError, match="check MLFLOW_TRACKING_URI and the server"):
        fetch("models:/tiny@champion")


def test_a_run_goes_on_after_a_resume(mlflow_store):
    with start_run("tests", "first") as run:
        mlflow.log_metric("loss", 1.0, step=1)
    with start_run("tests", "again", run_id=run.info.run_id) as resumed:
        mlflow.log_metric("loss", 0.5, step=2)
    assert resumed.info.run_id == run.info.run_id
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [metric.value for metric in history] == [1.0, 0.5]


def test_what_a_local_store_holds_is_not_copied_and_a_copy_goes_with_its_folder(bundle, mlflow_store, tmp_path):
    with start_run("tests", "a run") as run:
        register(bundle, "tiny", run_id=run.info.run_id)
    place = tmp_path / "copies"
    place.mkdir()
    assert tmp_path / "mlartifacts" in download(place, artifact_uri="models:/tiny/1").parents
    assert not list(place.iterdir())
    assert tempfile.gettempdir() != str(place)
