"""Gates: what a version shows against what the recipe requires."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from evaluation.config import EvaluationConfig, Gate, PromotionConfig
from evaluation.metrics import METRICS
from evaluation.rows import BICUBIC, FAILED, MODEL, OK
from evaluation.summary import improvement_text, improvements, interval_json, interval_of, paired_values
from infra.errors import UsageError

REFERENCE = "reference"  # the champion's rows beside the candidate's, in the column `method`


@dataclass(frozen=True)
class GateResult:
    """One line of the decision: what is asked, what was measured, what is required."""

    gate: str
    measured: str
    required: str
    passed: bool


@dataclass(frozen=True)
class Reference:
    """What the candidate is compared with: the champion's rows under the same protocol, and its name."""

    name: str
    rows: pd.DataFrame
    seconds_per_megapixel: float | None


def check_gates(
    promotion: PromotionConfig,
    evaluation: EvaluationConfig,
    summary: dict[str, Any],
    rows: pd.DataFrame,
    champion: Reference | None,
) -> list[GateResult]:
    """All gates of the recipe for a candidate's evaluation (its summary and rows). `champion` None: there is none.

    Raises UsageError if a gate asks for a metric that was not evaluated, or if runtimes are to be compared and the
    champion was not timed beside the candidate.
    """
    _require_metrics(promotion, summary)
    candidate = rows[rows["method"].isin([MODEL, BICUBIC])]
    if champion is not None:
        candidate = pd.concat([candidate, champion.rows.assign(method=REFERENCE)], ignore_index=True)
    results = [
        _check_count(promotion, summary),
        _check_photos(promotion, summary, candidate),
        _check_failures(promotion, candidate),
    ]
    results += [_check_metric(gate, promotion, evaluation, candidate, champion) for gate in promotion.gates]
    if promotion.max_runtime_ratio is not None and champion is not None:
        results.append(_check_runtime(promotion.max_runtime_ratio, summary, champion))
    return results


def passed(results: Sequence[GateResult]) -> bool:
    """True if every gate passed."""
    return all(result.passed for result in results)


def _require_metrics(promotion: PromotionConfig, summary: dict[str, Any]) -> None:
    """A metric that nobody asked for says nothing about the version: no refusal may go on record for it."""
    for gate in promotion.gates:
        if gate.metric not in summary["metrics"]:
            raise UsageError(
                f"promotion.gates: '{gate.metric}' was not measured; evaluate with evaluation.metrics including it"
            )


def _check_count(promotion: PromotionConfig, summary: dict[str, Any]) -> GateResult:
    measured = len(summary["ranking"])
    return GateResult("test images", str(measured), f">= {promotion.min_images}", measured >= promotion.min_images)


def _check_photos(promotion: PromotionConfig, summary: dict[str, Any], rows: pd.DataFrame) -> GateResult:
    measured = _num_photos(rows, summary["ranking"])
    return GateResult("photos", str(measured), f">= {promotion.min_photos}", measured >= promotion.min_photos)


def _num_photos(rows: pd.DataFrame, keys: Collection[str]) -> int:
    """How many photos the images of these keys stem from."""
    return int(rows[rows["key"].isin(keys)]["group"].nunique())


def _check_failures(promotion: PromotionConfig, rows: pd.DataFrame) -> GateResult:
    failed = int(rows[rows["status"] == FAILED]["key"].nunique())
    limit = promotion.max_failed_images
    return GateResult("failed images", str(failed), f"<= {limit}", failed <= limit)


def _check_metric(
    gate: Gate,
    promotion: PromotionConfig,
    evaluation: EvaluationConfig,
    rows: pd.DataFrame,
    champion: Reference | None,
) -> GateResult:
    definition = METRICS[gate.metric]
    against_champion = gate.over == "champion" and champion is not None
    reference = REFERENCE if against_champion else BICUBIC
    name = champion.name if against_champion and champion is not None else "bicubic"
    unit = f" {definition.unit}" if definition.unit else ""
    what = f"{definition.label} improvement over {name}"
    required = f"{'low end' if gate.bound == 'interval' else 'mean'} > {gate.min_improvement:+g}{unit}"
    table = paired_values(rows[rows["method"].isin([MODEL, reference])], gate.metric)
    if table.empty or {MODEL, reference} - set(table.columns):
        return GateResult(what, "not measured", required, False)
    if missing := _missing(rows, gate.metric, reference):
        return GateResult(what, f"no value for {missing} images that {name} has one for", required, False)
    if len(table) < promotion.min_images:
        measured = f"measured on {len(table)} images"
        return GateResult(what, measured, f"{required} on >= {promotion.min_images}", False)
    if (photos := _num_photos(rows, table.index)) < promotion.min_photos:
        return GateResult(what, f"measured on {photos} photos", f"{required} on >= {promotion.min_photos}", False)
    interval = interval_json(interval_of(improvements(table, gate.metric, reference), rows, evaluation))
    reached = interval["low"] if gate.bound == "interval" else interval["mean"]
    is_enough = reached is not None and reached > gate.min_improvement
    return GateResult(what, improvement_text(gate.metric, interval) + unit, required, is_enough)


def _missing(rows: pd.DataFrame, metric: str, reference: str) -> int:
    """How many images have a value of the reference and none of the model, although it was restored.

    A flat image has no NIQE, for one: what a model ruins must not drop out of its mean.
    """
    measured = rows[rows["status"] == OK]
    model = measured[measured["method"] == MODEL]
    of_reference = measured[(measured["method"] == reference) & measured[metric].notna()]
    return int(model[model[metric].isna()]["key"].isin(of_reference["key"]).sum())


def _check_runtime(limit: float, summary: dict[str, Any], champion: Reference) -> GateResult:
    own, other = summary["seconds_per_megapixel"].get(MODEL), champion.seconds_per_megapixel
    if own is None or other is None:
        raise UsageError(
            f"promotion.max_runtime_ratio: {champion.name} was not timed beside this version; run "
            f"evaluation/evaluate.py --model {summary['model']['uri']} with a new --out, which times both, or set it "
            "to null"
        )
    what, required = f"runtime relative to {champion.name}", f"<= {limit:g}x"
    return GateResult(what, f"{own / other:.2f}x", required, own / other <= limit)
