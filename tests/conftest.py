"""What many tests need: real photos, one Ray for the session, a private MLflow store, a real S3 server."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
GOLDEN = Path(__file__).parent / "golden"
LONGEST_FIRST = ["test_chain.py", "test_denoiser.py", "test_latents.py", "test_batch_evaluation.py"]
"""Files of minutes, handed out first (--no-loadscope-reorder), so that no core waits for one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.name
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)  # stable: all others stay in their order


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
def mlflow_store(tmp_path, monkeypatch, empty_mlflow_database) -> Iterator[str]:
    """A fresh SQLite tracking and registry store; commands started by the test use it, too."""
    import mlflow

    shutil.copy(empty_mlflow_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)  # what an earlier test's run has set in this process would outrank the environment
    yield uri
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A real S3 server (SeaweedFS) on loopback with the bucket `tests`. Yields its environment."""
    from infra.servers import s3_server as start

    with start(tmp_path_factory.mktemp("s3") / "data", "test-key", secrets.token_hex(8), "tests") as server:
        yield server.environment


@pytest.fixture
def s3(s3_server, monkeypatch) -> str:
    """`s3://bucket/prefix` of an empty prefix on the real server, with the AWS environment set."""
    from infra import storage_s3_client

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    storage_s3_client.forget_clients()
    yield f"s3://tests/{secrets.token_hex(4)}"
    storage_s3_client.forget_clients()
