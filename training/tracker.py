"""What a run tells MLflow: from the main process only, into the same run after a resume."""

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.exceptions import MlflowException

from infra import storage
from infra.models import NOT_THERE
from infra.tracking import connect, start_run, tracking_errors, tracking_uri
from pipelines.dataset import Dataset
from training.engine import Processes
from training.outbox import Outbox

RUN_FILE = "mlflow_run.json"
FIGURES_FILE = "figures.json"
MAX_PARAM_LENGTH = 500
DIGEST_LENGTH = 32  # MLflow stores 36 characters; the whole digest stands in a tag


class Tracker:
    """Figures of a run. In every process but the main one, which has no outbox, it does nothing."""

    def __init__(self, outbox: Outbox | None) -> None:
        self.outbox = outbox

    @property
    def run_id(self) -> str | None:
        """The MLflow run, None beside the main process."""
        return None if self.outbox is None else self.outbox.run_id

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record figures of optimizer step `step`, later if the server is away."""
        if self.outbox is not None:
            self.outbox.metrics(step, values)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Keep a picture, uint8 (H, W, 3), of optimizer step `step`, later if the server is away."""
        if self.outbox is not None:
            self.outbox.image(name, step, image)

    def deliver(self) -> None:
        """Send what the server has not taken so far. Raises JobError if it still does not."""
        if self.outbox is not None:
            self.outbox.deliver()

    def trained_on(self, dataset: Dataset) -> None:
        """Name the dataset as an input of the run. Raises JobError if the server is away."""
        if self.run_id is not None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted in multiple")
                source = resolve_dataset_source(dataset.url)
            name = dataset.url.rstrip("/").rpartition("/")[2]
            described = MetaDataset(source, name, dataset.digest[:DIGEST_LENGTH])  # type: ignore[abstract]
            with tracking_errors():
                mlflow.log_input(described, context="training")

    def file(self, name: str, content: Mapping[str, Any]) -> None:
        """Keep JSON data as an artifact. Raises JobError if the server is away."""
        if self.run_id is not None:
            with tempfile.TemporaryDirectory() as folder, tracking_errors():
                path = Path(folder, name)
                path.write_text(json.dumps(content, indent=2))
                mlflow.log_artifact(str(path))


@contextmanager
def track(
    processes: Processes, out: str, name: str, recipe: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[Tracker]:
    """Open the MLflow run of `out` (a new one, or the one an earlier start of the same command opened).

    Raises JobError if the server is away at the start. Figures it has not taken at the end wait in OUT/figures.json.
    """
    if not processes.is_main:
        yield Tracker(None)
        return
    location = storage.join(out, RUN_FILE)
    run_id = _earlier_run(location)
    with start_run(recipe["name"], name, run_id=run_id, tags=tags) as run:
        if run_id is None:
            storage.write_json(location, {"tracking_uri": tracking_uri(), "run_id": run.info.run_id})
            with tracking_errors():
                mlflow.log_params(dict(_flat(recipe)))
        outbox = Outbox(run.info.run_id, storage.join(out, FIGURES_FILE))
        tracker = Tracker(outbox)
        tracker.file("recipe.json", recipe)
        try:
            yield tracker
        finally:
            outbox.close()


def _earlier_run(location: str) -> str | None:
    if not storage.exists(location):
        return None
    run_id = str(storage.read_json(location)["run_id"])
    connect()
    try:
        MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            with tracking_errors():
                raise
        return None  # another tracking server, or its database was deleted: the record starts anew there
    return run_id


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, str(value)[:MAX_PARAM_LENGTH]
