"""The model registry as evaluation and promotion see it: aliases, tags, and the evaluations of a version."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from evaluation.rows import decode_rows
from infra.errors import JobError
from infra.tracking import connect, download, tracking_errors

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # three small files need none

CHAMPION_ALIAS, PREVIOUS_ALIAS = "champion", "previous"
EVALUATION_TAG = "evaluation.run_id"  # of the latest evaluation; each protocol's is in evaluation.<digest>
SUMMARY_ARTIFACT, ROWS_ARTIFACT, REPORT_ARTIFACT = "summary.json", "rows.parquet", "report.html"


@dataclass(frozen=True)
class LoggedEvaluation:
    """An evaluation as it stands on MLflow: its run, its summary, and its rows."""

    run_id: str
    summary: dict[str, Any]
    rows: pd.DataFrame


def client() -> MlflowClient:
    """A client of the registry the environment names."""
    connect()
    return MlflowClient()


def champion_of(name: str) -> str | None:
    """Version that holds the alias `champion`, or None."""
    return alias_of(name, CHAMPION_ALIAS)


def alias_of(name: str, alias: str) -> str | None:
    """Version that an alias of a registered model points to, or None."""
    try:
        return str(client().get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        with tracking_errors():
            raise
    raise AssertionError("unreachable: tracking_errors re-raises")


def model_tags(name: str) -> dict[str, str]:
    """Tags of a registered model; none if there is no such model."""
    with tracking_errors():
        found = client().search_registered_models(f"name='{name}'")
    return dict(found[0].tags) if found else {}


def version_tags(name: str, version: str) -> dict[str, str]:
    """Tags of a model version."""
    with tracking_errors():
        return dict(client().get_model_version(name, version).tags)


def set_version_tags(name: str, version: str, tags: Mapping[str, str]) -> None:
    """Write tags of a model version."""
    with tracking_errors():
        for key, value in tags.items():
            client().set_model_version_tag(name, version, key, value)


def protocol_tag(digest: str) -> str:
    """Tag of a version that holds the run of its evaluation under a protocol."""
    return f"evaluation.{digest[:16]}"


def load_evaluation(run_id: str) -> LoggedEvaluation:
    """Fetch what an evaluation logged. Raises JobError if the run or its files are gone."""
    connect()
    try:
        with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
            summary, rows = (
                download(Path(folder), run_id=run_id, artifact_path=name).read_bytes()
                for name in (SUMMARY_ARTIFACT, ROWS_ARTIFACT)
            )
        return LoggedEvaluation(run_id, json.loads(summary), decode_rows(rows))
    except (MlflowException, OSError, ValueError) as error:
        raise JobError(
            f"evaluation run {run_id}: its files cannot be read ({str(error).splitlines()[0]}); "
            "evaluate that version again"
        ) from error
