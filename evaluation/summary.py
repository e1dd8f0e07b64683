"""From per-image rows to figures: means, paired differences with intervals, worst and best images, runtime."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.bootstrap import Interval, bootstrap_mean
from evaluation.config import EvaluationConfig
from evaluation.metrics import METRICS
from evaluation.rows import BICUBIC, CHAMPION, FAILED, MODEL, OK


def methods_of(rows: pd.DataFrame) -> list[str]:
    """The methods that were measured, in the order in which they are shown."""
    present = set(rows["method"])
    return [method for method in (BICUBIC, CHAMPION, MODEL) if method in present]


def summarize(rows: pd.DataFrame, config: EvaluationConfig) -> dict[str, Any]:
    """Everything the figures of an evaluation say, as JSON data.

    A metric is averaged over the images on which every method has a value, so that columns can be compared; how many
    those are stands beside it. Improvements have their sign turned so that positive is better.
    """
    methods = methods_of(rows)
    return {
        "num_images": int(rows["key"].nunique()),
        "num_groups": int(rows["group"].nunique()),
        "failed": failures(rows),
        "metrics": {name: _summarize_metric(rows, name, methods, config) for name in config.metrics},
        "ranking_metric": ranking_metric(config.metrics),
        "ranking": rank_images(rows, config.metrics),
        "device": ", ".join(sorted(rows["device"].dropna().unique())),
        "seconds_per_megapixel": {method: _runtime(rows, method) for method in methods if method != BICUBIC},
    }


def failures(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Images that could not be read or restored: key, first method it failed with, and reason; each reason once."""
    failed = rows[rows["status"] == FAILED].drop_duplicates(["key", "error"])
    return failed[["key", "method", "error"]].to_dict("records")


def ranking_metric(metrics: Sequence[str]) -> str:
    """The metric that decides which images are the worst: what a person would see, if it was measured."""
    return next((name for name in ("lpips_alex", "lpips_vgg") if name in metrics), metrics[0])


def rank_images(rows: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Keys of the measured images, worst first: least improvement over bicubic in the ranking metric."""
    metric = ranking_metric(metrics)
    table = paired_values(rows, metric)
    if MODEL not in table or table.empty:
        return []
    improvement = improvements(table, metric, BICUBIC) if BICUBIC in table else table[MODEL]
    return list(improvement.sort_index().sort_values(kind="stable").index)


def paired_values(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Values of a metric with one line per image (index: key) and one column per method; complete lines only."""
    measured = rows[rows["status"] == OK]
    table = measured.pivot(index="key", columns="method", values=metric)
    return table.dropna()


def improvements(table: pd.DataFrame, metric: str, reference: str) -> pd.Series:
    """Per-image improvement of the model over a reference method; positive is better."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    return sign * (table[MODEL] - table[reference])


def interval_of(values: pd.Series, rows: pd.DataFrame, config: EvaluationConfig) -> Interval:
    """Bootstrap interval of the mean of per-image values (index: key), photos resampled as wholes."""
    group_of = rows.drop_duplicates("key").set_index("key")["group"]
    return bootstrap_mean(
        values.to_numpy(),
        groups=[group_of[key] for key in values.index],
        num_resamples=config.bootstrap_resamples,
        confidence=config.confidence,
        seed=config.seed,
    )


def interval_json(interval: Interval) -> dict[str, float | int | None]:
    """An interval as JSON data; an end that is not bounded is null."""
    return {
        "mean": interval.mean,
        "low": interval.low if math.isfinite(interval.low) else None,
        "high": interval.high if math.isfinite(interval.high) else None,
        "num_images": interval.num_images,
        "num_groups": interval.num_groups,
    }


def improvement_text(name: str, interval: Mapping[str, Any]) -> str:
    """`+0.0312 [+0.0210, +0.0410]`; an unbounded end is `?`."""
    decimals = METRICS[name].decimals
    ends = ["?" if interval[end] is None else f"{interval[end]:+.{decimals}f}" for end in ("low", "high")]
    return f"{interval['mean']:+.{decimals}f} [{ends[0]}, {ends[1]}]"


def _summarize_metric(rows: pd.DataFrame, name: str, methods: list[str], config: EvaluationConfig) -> dict[str, Any]:
    table = paired_values(rows, name)
    if table.empty or not set(methods) <= set(table.columns):
        return {"num_images": 0, "methods": {}, "improvement_over": {}}
    return {
        "num_images": len(table),
        "methods": {method: interval_json(interval_of(table[method], rows, config)) for method in methods},
        "improvement_over": {
            method: interval_json(interval_of(improvements(table, name, method), rows, config))
            for method in methods
            if method != MODEL
        },
    }


def _runtime(rows: pd.DataFrame, method: str) -> float | None:
    """Seconds per megapixel of output: the median over the images, which the first, slow one does not move."""
    measured = rows[(rows["method"] == method) & (rows["status"] == OK)]
    if measured.empty:
        return None
    return float((measured["seconds"] / (measured["height"] * measured["width"] / 1e6)).median())
