"""evaluate: a model and a test set become rows, figures with intervals, a report and a run on record.

OUT/evaluation.json         what is evaluated: protocol, model, champion; frozen when the evaluation begins
OUT/rows/000012.parquet     rows of one shard; a shard whose rows exist is done
OUT/restored/model/KEY.png  restored images (and restored/champion/)
OUT/summary.json            figures with intervals
OUT/report.html             the same for a person
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.config import EvaluationConfig
from evaluation.evaluation_run import log_evaluation
from evaluation.evaluator import Bundle, EvaluationJob, bundle_digest, load_bundle, read_bundle
from evaluation.pair_set import PairSet, open_pairs
from evaluation.pictures import collect_pictures
from evaluation.protocol import build_protocol, protocol_digest
from evaluation.registry import champion_of
from evaluation.report import render_report
from evaluation.rows import CHAMPION, MODEL, finished_shards, read_rows
from evaluation.shard_runner import run_shards
from evaluation.summary import summarize
from infra import storage
from infra.errors import JobError, UsageError
from infra.models import fetch, version_of
from infra.recipe import Recipe, difference
from infra.version import code_version

PLAN_FILE, SUMMARY_FILE, REPORT_FILE = "evaluation.json", "summary.json", "report.html"
SCHEMA_VERSION = 1  # of evaluation.json, the rows and summary.json; raised when any of them changes its shape


@dataclass(frozen=True)
class Evaluation:
    """A planned evaluation: `plan` is the content of evaluation.json, `bundles` the models by method."""

    plan: dict[str, Any]
    config: EvaluationConfig
    pairs: PairSet
    bundles: Mapping[str, Bundle]


def evaluate(
    recipe: Recipe, model: str, data: str, out: str, workers: int | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Evaluate the model at URI `model` on the test set `data`, into `out`; returns the content of summary.json.

    Running it again goes on with the shards that are not done. With `dry_run` it returns the plan and writes nothing.
    Raises UsageError for a model, test set or `out` that does not fit the recipe, and JobError if nothing could be
    measured or MLflow is down (what was measured stays).
    """
    evaluation = plan_evaluation(recipe, model, data, out)
    if dry_run:
        return evaluation.plan
    evaluation = freeze_plan(evaluation, out)
    measure(evaluation, out, workers)
    rows = read_rows(out, [shard.name for shard in evaluation.pairs.shards])
    summary = _describe(evaluation) | summarize(rows, evaluation.config)
    storage.write_json(storage.join(out, SUMMARY_FILE), summary)
    if not summary["ranking"]:
        raise JobError(f"no image of '{data}' could be measured: {summary['failed'][0]['error']}")
    pictures = collect_pictures(evaluation.pairs, rows, summary, out, evaluation.config.report_images)
    report = render_report(summary, rows, pictures, evaluation.config.report_image_size)
    storage.write_bytes(storage.join(out, REPORT_FILE), report.encode())
    log_evaluation(recipe, summary, rows, report, out)
    return summary


def plan_evaluation(recipe: Recipe, model: str, data: str, out: str) -> Evaluation:
    """Resolve the model, the champion and the test set, and check that they belong together. Raises UsageError."""
    config = recipe.section("evaluation", EvaluationConfig)
    pairs = open_pairs(_for_workers(data), config.max_images, config.images_per_shard)
    described, bundle = _resolve_model(recipe, model)
    champion, bundles = None, {MODEL: bundle}
    existing = _read(out, PLAN_FILE)
    if existing is not None:
        # The champion may have changed since this evaluation began, by its own promotion for one: go on with the old.
        if existing["champion"] is not None:
            champion, bundles[CHAMPION] = _resolve_model(recipe, existing["champion"]["uri"])
    elif config.compare_to_champion and described["name"] is not None:
        version = champion_of(described["name"])
        if version is not None and version != described["version"]:
            champion, bundles[CHAMPION] = _resolve_model(recipe, f"models:/{described['name']}/{version}")
    protocol = build_protocol(recipe, config, pairs.digest, pairs.num_pairs)
    plan = {
        "schema_version": SCHEMA_VERSION,
        "identity": {"format": SCHEMA_VERSION, "protocol": protocol, "model_digest": described["digest"]},
        "protocol_digest": protocol_digest(protocol),
        "model": described,
        "champion": champion,
        "data": data,
        "recipe": dict(recipe.raw),
    }
    return Evaluation(plan, config, pairs, bundles)


def freeze_plan(evaluation: Evaluation, out: str) -> Evaluation:
    """Write evaluation.json once. Raises UsageError if `out` holds the evaluation of something else."""
    if storage.write_json(storage.join(out, PLAN_FILE), evaluation.plan, if_absent=True):
        return evaluation
    existing = _read(out, PLAN_FILE)
    assert existing is not None, "write_json said that it exists"
    if changes := difference(existing["identity"], evaluation.plan["identity"]):
        raise UsageError(
            f"out '{out}': holds another evaluation ({'; '.join(changes[:4])}); choose another --out or undo the change"
        )
    return evaluation


def measure(evaluation: Evaluation, out: str, workers: int | None) -> None:
    """Evaluate the shards that are not done, on Ray."""
    done = finished_shards(out)
    todo = [shard for shard in evaluation.pairs.shards if shard.name not in done]
    if not todo:
        return
    config, protocol = evaluation.config, evaluation.plan["identity"]["protocol"]
    job = EvaluationJob(
        pairs=evaluation.pairs,
        out=_for_workers(out),
        metrics=config.metrics,
        scale=protocol["scale"],
        seed=config.seed,
        tile_size=config.tile_size,
        tile_overlap=config.tile_overlap,
        save_restored=config.save_restored,
    )
    run_shards(job, evaluation.bundles, todo, workers)


def _resolve_model(recipe: Recipe, uri: str) -> tuple[dict[str, Any], Bundle]:
    """A model's description and its files. Raises UsageError if it does not exist or is of another task or scale."""
    named = version_of(uri)
    name, version = named if named else (None, None)
    pinned = f"models:/{name}/{version}" if named else uri
    bundle = read_bundle(fetch(pinned))
    try:
        restorer = load_bundle(bundle, "cpu")
    except ValueError as error:
        raise UsageError(f"model '{uri}': {error}") from error
    for what, own, wanted in (("task", restorer.task, recipe.task), ("scale", restorer.scale, recipe.scale)):
        if own != wanted:
            raise UsageError(f"model '{uri}': its {what} is {own}, the recipe '{recipe.name}' asks for {wanted}")
    return {"uri": pinned, "name": name, "version": version, "digest": bundle_digest(bundle)}, bundle


def _describe(evaluation: Evaluation) -> dict[str, Any]:
    """The part of the summary that says what was measured and how."""
    model, protocol = evaluation.plan["model"], evaluation.plan["identity"]["protocol"]
    title = f"{model['name']} · version {model['version']}" if model["name"] else model["uri"]
    return {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "model": model,
        "champion": evaluation.plan["champion"],
        "data": evaluation.plan["data"],
        "protocol": protocol,
        "protocol_digest": evaluation.plan["protocol_digest"],
        "confidence": evaluation.config.confidence,
        "bootstrap_resamples": evaluation.config.bootstrap_resamples,
        "code_version": code_version(),
        "made_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _for_workers(url: str) -> str:
    """A local path made absolute: a worker may stand in another folder."""
    return url if "://" in url else str(Path(url).expanduser().absolute())


def _read(out: str, name: str) -> dict[str, Any] | None:
    try:
        return dict(storage.read_json(storage.join(out, name)))
    except FileNotFoundError:
        return None
