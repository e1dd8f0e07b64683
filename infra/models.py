"""Model versions: a bundle folder becomes an MLflow pyfunc version, and a model URI becomes a bundle folder.

A bundle is what `resshift.Restorer.save` writes: safetensors and their configuration, nothing pickled. MLflow loads it
through the module `resshift.pyfunc`, so a machine needs only the package, not this repository.
"""

import io
import json
import logging
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType
from PIL import Image

from infra import storage
from infra.errors import UsageError
from infra.tracking import connect, download, tracking_errors, tracking_uri

NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow answers for a wrong name or version
EXAMPLE_SIDE = 16  # pixels; small, because MLflow tries the example when a model is logged
REQUIREMENTS = ("torch", "numpy", "safetensors", "pillow", "opencv-python-headless", "pandas", "resshift-foundry")


def register(bundle: Path, name: str, *, run_id: str, tags: Mapping[str, str] | None = None) -> str:
    """Log a bundle folder to a run as a pyfunc model and register it. Returns the new version number, as text.

    The pyfunc takes a table with the column `image` (and `mask` if the model inpaints), encoded files or arrays, and
    the parameter `seed`; see `resshift.pyfunc.RestorerModel.predict`. Raises JobError if MLflow cannot be reached.
    """
    import mlflow

    logging.getLogger("mlflow.utils.requirements_utils").setLevel(logging.ERROR)
    connect()
    inpaints = bool(json.loads((bundle / "model.json").read_text())["denoiser"]["cond_mask"])
    with tracking_errors(), mlflow.start_run(run_id=run_id, nested=mlflow.active_run() is not None):
        info = mlflow.pyfunc.log_model(
            name="model",
            loader_module="resshift.pyfunc",
            data_path=str(bundle),
            signature=_signature(inpaints),
            input_example=_example(inpaints),
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        )
        client = MlflowClient()
        _ensure_registered(client, name)
        created = client.create_model_version(
            name, source=info.model_uri, run_id=run_id, model_id=info.model_id, tags=dict(tags or {})
        )
        return str(created.version)


def fetch(uri: str) -> Path:
    """Bring the bundle a model URI names onto this machine and return its folder; a copy lasts as long as this process.

    `uri`: models:/name@alias, models:/name/version, runs:/id/model, a folder, or s3://bucket/prefix. Raises UsageError.
    """
    if uri.startswith(("models:/", "runs:/")):
        return _fetch_from_mlflow(uri)
    folder = storage.local_folder(uri, Path(tempfile.mkdtemp(dir=_copies().name))) if storage.is_s3(uri) else Path(uri)
    if not (folder / "model.json").is_file():
        raise UsageError(
            f"model '{uri}': no model bundle there (model.json is missing); give the folder a training run wrote "
            "(OUT/model) or models:/name@alias"
        )
    return folder


def version_of(uri: str) -> tuple[str, str] | None:
    """(name, version) for a models:/ URI, None for anything else.

    Raises UsageError if it does not exist, JobError if MLflow cannot be reached.
    """
    if not uri.startswith("models:/"):
        return None
    connect()
    name, _, alias = uri.removeprefix("models:/").partition("@")
    try:
        if alias:
            return name, str(MlflowClient().get_model_version_by_alias(name, alias).version)
        name, _, number = name.rpartition("/")
        return name, str(MlflowClient().get_model_version(name, number).version)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            with tracking_errors():
                raise
        with tracking_errors():
            known = _known(name)
        raise UsageError(f"model '{uri}': {_one_line(error)}; {known}") from error


def _signature(inpaints: bool) -> ModelSignature:
    """Columns in, a column out. Their type is "any": a column of "binary" would refuse arrays over HTTP."""
    columns = [ColSpec(AnyType(), "image")] + ([ColSpec(AnyType(), "mask")] if inpaints else [])
    return ModelSignature(
        inputs=Schema(columns),  # type: ignore[arg-type]
        outputs=Schema([ColSpec(AnyType(), "image")]),
        params=ParamSchema([ParamSpec("seed", DataType.long, 0)]),
    )


def _example(inpaints: bool) -> tuple[pd.DataFrame, dict[str, int]]:
    """A table of one encoded image, and its parameters; MLflow shows it and tries it when the model is logged."""
    ramp = np.linspace(0, 255, EXAMPLE_SIDE**2 * 3).reshape(EXAMPLE_SIDE, EXAMPLE_SIDE, 3).astype(np.uint8)
    columns = {"image": [_png(ramp)]}
    if inpaints:
        columns["mask"] = [_png(np.tri(EXAMPLE_SIDE, dtype=np.uint8) * 255)]
    return pd.DataFrame(columns), {"seed": 0}


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _fetch_from_mlflow(uri: str) -> Path:
    connect()
    version_of(uri)  # its error says which names and versions there are
    try:
        local = download(Path(_copies().name), artifact_uri=uri)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            with tracking_errors():
                raise
        raise UsageError(f"model '{uri}': {_one_line(error)}; see the MLflow UI at {tracking_uri()}") from error
    found = sorted(local.rglob("model.json"))
    if not found:
        raise UsageError(f"model '{uri}' holds no model bundle; it was not registered by training/train.py")
    return found[0].parent


@cache
def _copies() -> "tempfile.TemporaryDirectory[str]":
    """A folder that is removed when the process ends: a bundle of full size has 0.7 GB."""
    return tempfile.TemporaryDirectory(prefix="bundles-")


def _ensure_registered(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _known(name: str) -> str:
    client = MlflowClient()
    versions = [str(found.version) for found in client.search_model_versions(f"name='{name}'")]
    if versions:
        return f"'{name}' has the versions {', '.join(sorted(versions, key=int))}"
    names = [model.name for model in client.search_registered_models()]
    return f"registered models at {tracking_uri()}: {', '.join(names) or 'none'}"


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0].removeprefix("RESOURCE_DOES_NOT_EXIST: ").rstrip(".")
