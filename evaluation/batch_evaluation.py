"""evaluate: a model and a test set become rows, figures with intervals, a report and a run on record.

OUT/evaluation.json         what is evaluated: protocol, model, champion; frozen when the evaluation begins
OUT/rows/000012.parquet     rows of one shard; a shard whose rows exist is done
OUT/champion.parquet        the champion's rows, where its own evaluation under this protocol is used again
OUT/restored/model/KEY.png  restored images (and restored/champion/)
OUT/summary.json            figures with intervals
OUT/report.html             the same for a person
"""

from datetime import UTC, datetime
from typing import Any

import pandas as pd

from evaluation.evaluation_plan import SCHEMA_VERSION, Evaluation, Request, freeze_plan, plan_evaluation
from evaluation.evaluation_run import log_evaluation
from evaluation.evaluator import EvaluationJob
from evaluation.meter import Meter
from evaluation.metrics import METRICS
from evaluation.pictures import collect_pictures
from evaluation.report import render_report
from evaluation.rows import CHAMPION, MODEL, finished_shards, read_rows
from evaluation.shard_runner import run_shards
from evaluation.summary import summarize
from infra import storage
from infra.errors import JobError
from infra.recipe import Recipe
from infra.version import code_version

SUMMARY_FILE, REPORT_FILE = "summary.json", "report.html"


def evaluate(recipe: Recipe, request: Request, workers: int | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Evaluate what `request` names, into its `out`; returns the content of summary.json.

    Running it again goes on with the shards that are not done. With `dry_run` it returns the plan and writes nothing.
    Raises UsageError for a model, test set or `out` that does not fit the recipe, and JobError if nothing could be
    measured or MLflow is down (what was measured stays).
    """
    evaluation, out = plan_evaluation(recipe, request), request.out
    if dry_run:
        return evaluation.plan
    freeze_plan(evaluation, out)
    measure(evaluation, out, workers)
    rows = _all_rows(evaluation, out)
    summary = _describe(evaluation, out) | summarize(rows, evaluation.config)
    if evaluation.champion_rows is not None:
        summary["seconds_per_megapixel"][CHAMPION] = None  # measured elsewhere or at another time
    storage.write_json(storage.join(out, SUMMARY_FILE), summary)
    if not summary["ranking"]:
        raise JobError(f"no image of '{request.data}' could be measured: {_why_nothing(summary)}")
    pictures = collect_pictures(evaluation, rows, summary, out)
    report = render_report(summary, rows, pictures, evaluation.config)
    storage.write_bytes(storage.join(out, REPORT_FILE), report.encode())
    log_evaluation(recipe, summary, rows, report, out)
    return summary


def measure(evaluation: Evaluation, out: str, workers: int | None) -> None:
    """Evaluate the shards that are not done, on Ray."""
    done = finished_shards(out)
    todo = [shard for shard in evaluation.pairs.shards if shard.name not in done]
    if not todo:
        return
    config = evaluation.config
    Meter(config.metrics)  # what a metric lacks is said before the work begins, not by the first worker
    job = EvaluationJob(
        pairs=evaluation.pairs,
        out=storage.absolute(out),
        metrics=config.metrics,
        scale=evaluation.protocol["scale"],
        seed=config.seed,
        tile_size=config.tile_size,
        tile_overlap=config.tile_overlap,
        batch_size=config.batch_size,
        precision=config.precision,
        save_restored=config.save_restored,
        others=evaluation.others,
    )
    run_shards(job, evaluation.bundles, todo, workers)


def _all_rows(evaluation: Evaluation, out: str) -> pd.DataFrame:
    """The rows of all shards and, if it was measured elsewhere, of the champion; ordered by image."""
    rows = read_rows(out, [shard.name for shard in evaluation.pairs.shards])
    keys, expected = rows[rows["method"] == MODEL]["key"], evaluation.pairs.num_pairs
    if len(keys) != expected or keys.nunique() != expected:
        raise JobError(
            f"out '{out}': its rows tell of {keys.nunique()} images in {len(keys)} rows, the test set holds "
            f"{expected}; they were changed by hand, evaluate into a new --out"
        )
    if evaluation.champion_rows is None:
        return rows
    both = pd.concat([rows, evaluation.champion_rows], ignore_index=True)
    return both.sort_values(["key", "method"], ignore_index=True)


def _why_nothing(summary: dict[str, Any]) -> str:
    if summary["failed"]:
        return str(summary["failed"][0]["error"])
    label = METRICS[summary["ranking_metric"]].label
    return f"{label} has no value for any of them, are they too small for it? Leave it out of evaluation.metrics"


def _describe(evaluation: Evaluation, out: str) -> dict[str, Any]:
    """The part of the summary that says what was measured and how."""
    model = evaluation.plan["model"]
    return {
        "schema_version": SCHEMA_VERSION,
        "title": f"{model['name']} · version {model['version']}" if model["name"] else model["uri"],
        "model": model,
        "champion": evaluation.plan["champion"],
        "others": evaluation.plan["others"],
        "data": evaluation.plan["data"],
        "out": storage.absolute(out),
        "protocol": evaluation.protocol,
        "protocol_digest": evaluation.plan["protocol_digest"],
        "confidence": evaluation.config.confidence,
        "bootstrap_resamples": evaluation.config.bootstrap_resamples,
        "batch_size": evaluation.config.batch_size,
        "code_version": code_version(),
        "made_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
