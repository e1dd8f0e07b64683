"""MLflow runs: where they are kept, and how a command opens or reopens one."""

import getpass
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default keeps trying a dead server for minutes
os.environ.setdefault("MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import logging

import mlflow
import requests
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException

from infra.errors import JobError
from infra.version import code_version

logging.getLogger("alembic").setLevel(logging.WARNING)  # the first use of a SQLite store prints each migration
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)

ANSWER_SECONDS = 3.0  # for a server to answer the first request of a process
DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
TRACKING_FAILURES = (MlflowException, requests.RequestException, Boto3Error, BotoCoreError, ClientError)
"""What MLflow's client raises when the server, or the storage of its artifacts, is away or refuses."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or a SQLite file in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI


def user_name() -> str:
    """Who acts, for records: the login name, or the number of a user without one (as in many containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def connect() -> None:
    """Point MLflow (tracking and registry) at `tracking_uri()`. Raises JobError if no server answers there."""
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        _require_answer(uri)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)


@lru_cache
def _require_answer(uri: str) -> None:
    """Knock once per process: a dead server is found in seconds, while later requests wait out a restart."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while (reason := why_away(uri)) is not None:
        if time.monotonic() > deadline:
            raise JobError(f"MLflow at {reason}; check MLFLOW_TRACKING_URI and the server")
        time.sleep(0.5)


def why_away(uri: str | None = None) -> str | None:
    """Why no server answers at `uri` (default: `tracking_uri()`) right now; None if one does, or none is needed."""
    uri = uri or tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return None
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS)  # any answer will do
    except requests.Timeout:
        return f"{uri}: no answer"
    except requests.RequestException:
        return f"{uri}: nobody listens there"
    return None


@contextmanager
def tracking_errors() -> Iterator[None]:
    """Turn a tracking server that cannot be reached or refuses into one clear JobError."""
    try:
        yield
    except TRACKING_FAILURES as error:
        raise JobError(f"MLflow at {reason_of(error)}; check MLFLOW_TRACKING_URI and the server") from error


def reason_of(error: Exception) -> str:
    """Where MLflow is and what it said, in one line."""
    return f"{tracking_uri()}: {(str(error) or type(error).__name__).splitlines()[0][:300]}"


@contextmanager
def start_run(
    experiment: str, run_name: str, run_id: str | None = None, tags: Mapping[str, str] | None = None
) -> Iterator[mlflow.ActiveRun]:
    """Open a run in an experiment, or reopen `run_id` after a resume; it ends with the context.

    Raises JobError if the server is unreachable. What was raised inside goes before what the server says at the end.
    Artifacts of a local SQLite store stand in `mlartifacts/` beside the database file.
    """
    connect()
    with tracking_errors():
        _make_sure_of(experiment)
        mlflow.set_experiment(experiment)
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else run_name)
        mlflow.set_tags({"code.version": code_version(), **(tags or {})})
    try:
        yield run
    except BaseException:
        with suppress(*TRACKING_FAILURES), _impatient():
            mlflow.end_run("FAILED")
        raise
    with tracking_errors():
        mlflow.end_run()


def download(folder: Path, **artifacts: str) -> Path:
    """The place on this machine of what `mlflow.artifacts.download_artifacts` takes.

    What a local store holds is left where it is. MLflow copies all else into a temporary folder that it never removes:
    here that is one in `folder`.
    """
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        return Path(mlflow.artifacts.download_artifacts(**artifacts))
    finally:
        tempfile.tempdir = before


def _make_sure_of(experiment: str) -> None:
    if mlflow.get_experiment_by_name(experiment) is not None:
        return
    try:
        mlflow.create_experiment(experiment, artifact_location=_artifact_location(experiment))
    except MlflowException as error:  # another run may have been first
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@contextmanager
def _impatient() -> Iterator[None]:
    """Requests inside are made once and wait for seconds only: the process is about to leave, server or not."""
    hasty = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(int(ANSWER_SECONDS))}
    before = {name: os.environ.get(name) for name in hasty}
    os.environ.update(hasty)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _artifact_location(experiment: str) -> str | None:
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return None  # a server knows its own place
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts" / experiment).as_uri()
