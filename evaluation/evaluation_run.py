"""The MLflow run of an evaluation: figures, files, and the tags that link it to the model version."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from evaluation.registry import (
    EVALUATION_TAG,
    REPORT_ARTIFACT,
    ROWS_ARTIFACT,
    SUMMARY_ARTIFACT,
    client,
    protocol_tag,
    set_version_tags,
)
from evaluation.rows import MODEL, encode_frame
from infra import storage
from infra.models import NOT_THERE
from infra.recipe import Recipe
from infra.tracking import start_run, tracking_errors, tracking_uri

RUN_FILE = "mlflow_run.json"


def log_evaluation(recipe: Recipe, summary: Mapping[str, Any], rows: pd.DataFrame, report: str, out: str) -> str:
    """Log an evaluation in the recipe's experiment and link it to the model version; returns the run's id.

    The run of an earlier start of the same evaluation is continued. Raises JobError if MLflow cannot be reached; what
    was measured stands in `out` and the next start logs it.
    """
    model = summary["model"]
    tags = {
        "kind": "evaluation",
        "model.uri": model["uri"],
        "model.digest": model["digest"],
        "protocol.digest": summary["protocol_digest"],
        "test_set.digest": summary["protocol"]["test_set"]["digest"],
        "data": summary["data"],
        "out": out,
    }
    if model["name"]:
        tags |= {"model.name": model["name"], "model.version": model["version"]}
    with start_run(recipe.name, f"evaluation of {summary['title']}", run_id=_earlier_run(out), tags=tags) as run:
        run_id = str(run.info.run_id)
        with tracking_errors():
            mlflow.log_params(dict(_leaves(summary["protocol"], "protocol")))
            mlflow.log_metrics(dict(_figures(summary)))
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, SUMMARY_ARTIFACT).write_bytes(storage.read_bytes(storage.join(out, "summary.json")))
                Path(folder, ROWS_ARTIFACT).write_bytes(encode_frame(rows))
                Path(folder, REPORT_ARTIFACT).write_text(report)
                mlflow.log_artifacts(folder)
    storage.write_json(storage.join(out, RUN_FILE), {"tracking_uri": tracking_uri(), "run_id": run_id})
    if model["name"]:
        linked = {EVALUATION_TAG: run_id, protocol_tag(summary["protocol_digest"]): run_id}
        set_version_tags(model["name"], model["version"], linked)
    return run_id


def _figures(summary: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "num_images", summary["num_images"]
    yield "num_failed_images", len(summary["failed"])
    for method, seconds in summary["seconds_per_megapixel"].items():
        if seconds is not None:
            yield f"{method}.seconds_per_megapixel", seconds
    for name, figures in summary["metrics"].items():
        for method, interval in figures["methods"].items():
            yield (name if method == MODEL else f"{method}.{name}"), interval["mean"]
        for method, interval in figures["improvement_over"].items():
            for end in ("mean", "low", "high"):
                if interval[end] is not None:
                    yield f"improvement_over_{method}.{name}.{end}", interval[end]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves of JSON data as (`protocol.metrics.psnr_y`, value)."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{path}.{key}")


def _earlier_run(out: str) -> str | None:
    """The run an earlier start logged to, if this tracking store still has it."""
    try:
        earlier = storage.read_json(storage.join(out, RUN_FILE))
    except FileNotFoundError:
        return None
    if earlier["tracking_uri"] != tracking_uri():
        return None
    try:
        return str(client().get_run(earlier["run_id"]).info.run_id)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            with tracking_errors():
                raise
        return None  # that store was emptied: log anew
