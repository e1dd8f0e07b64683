"""From per-image rows to figures: means, paired differences with intervals, worst and best images, runtime."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.bootstrap import Interval, bootstrap_mean
from evaluation.config import EvaluationConfig
from evaluation.metrics import METRICS
from evaluation.rows import BICUBIC, CHAMPION, FAILED, MODEL, OK

OWN = (BICUBIC, CHAMPION, MODEL)  # the methods that have a row for every image, as far as they are there at all
NUM_EXTREMES = 5  # images listed as the worst and as the best


def methods_of(rows: pd.DataFrame) -> list[str]:
    """The methods that were measured, in the order in which they are shown: the model last."""
    present = set(rows["method"])
    own = [method for method in (BICUBIC, CHAMPION, MODEL) if method in present]
    return [*own[:1], *sorted(present - set(own)), *own[1:]]


def summarize(rows: pd.DataFrame, config: EvaluationConfig) -> dict[str, Any]:
    """Everything the figures of an evaluation say, as JSON data.

    A metric of the model, the champion and bicubic is averaged over the images on which all of them have a value, so
    that columns can be compared; another method over those of these that it has restored. How many that are stands
    beside each mean. Improvements have their sign turned so that positive is better. What another method lacks is told
    only of images that the others were measured on.
    """
    methods = methods_of(rows)
    failed = failures(rows, OWN)
    missing_anyway = {item["key"] for item in failed}
    return {
        "num_images": int(rows["key"].nunique()),
        "num_groups": int(rows["group"].nunique()),
        "failed": failed,
        "failed_others": {
            method: [item for item in failures(rows, [method]) if item["key"] not in missing_anyway]
            for method in methods
            if method not in OWN
        },
        "metrics": {name: _summarize_metric(rows, name, methods, config) for name in config.metrics},
        "extremes": {name: _extremes(rows, name) for name in config.metrics},
        "ranking_metric": ranking_metric(config.metrics),
        "ranking": rank_images(rows, config.metrics),
        "device": ", ".join(sorted(rows[rows["method"] == MODEL]["device"].dropna().unique())),
        "seconds_per_megapixel": {method: _runtime(rows, method) for method in (CHAMPION, MODEL) if method in methods},
    }


def failures(rows: pd.DataFrame, methods: Sequence[str]) -> list[dict[str, str]]:
    """Images that could not be read or restored: key, first of `methods` that failed, and reason; each reason once."""
    failed = rows[(rows["status"] == FAILED) & rows["method"].isin(methods)].drop_duplicates(["key", "error"])
    return failed[["key", "method", "error"]].to_dict("records")


def ranking_metric(metrics: Sequence[str]) -> str:
    """The metric that decides which images are the worst: what a person would see, if it was measured."""
    return next((name for name in ("lpips_alex", "lpips_vgg") if name in metrics), metrics[0])


def rank_images(rows: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Keys of the measured images, worst first: least improvement over bicubic in the ranking metric."""
    metric = ranking_metric(metrics)
    table = paired_values(rows, metric, OWN)
    if MODEL not in table or table.empty:
        return []
    improvement = improvements(table, metric, BICUBIC) if BICUBIC in table else table[MODEL]
    return list(improvement.sort_index().sort_values(kind="stable").index)


def paired_values(rows: pd.DataFrame, metric: str, methods: Collection[str] | None = None) -> pd.DataFrame:
    """Values of a metric with one line per image (index: key) and one column per method; complete lines only.

    `methods`: the only ones to look at, or None for all in `rows`.
    """
    measured = rows[rows["status"] == OK]
    if methods is not None:
        measured = measured[measured["method"].isin(methods)]
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
    table = paired_values(rows, name, OWN)
    figures: dict[str, Any] = {"num_images": 0, "methods": {}, "improvement_over": {}}
    if table.empty or not {method for method in methods if method in OWN} <= set(table.columns):
        return figures
    for method in methods:
        values = table
        if method not in OWN:
            own = paired_values(rows, name, [method])
            values = table.join(own, how="inner") if method in own else own
            if values.empty:
                continue
        figures["methods"][method] = interval_json(interval_of(values[method], rows, config))
        if method != MODEL:
            gains = improvements(values, name, method)
            figures["improvement_over"][method] = interval_json(interval_of(gains, rows, config))
    return figures | {"num_images": len(table)}


def _extremes(rows: pd.DataFrame, name: str) -> dict[str, dict[str, list[list[Any]]]]:
    """By reference (bicubic, champion) the [key, improvement] of the images where the model gains least and most."""
    table = paired_values(rows, name, OWN)
    found = {}
    for reference in (BICUBIC, CHAMPION):
        if reference in table and MODEL in table and not table.empty:
            ordered = improvements(table, name, reference).sort_index().sort_values(kind="stable")
            listed = [[key, float(gain)] for key, gain in ordered.items()]
            few = min(NUM_EXTREMES, len(listed) // 2) or len(listed)
            found[reference] = {"worst": listed[:few], "best": listed[::-1][:few]}
    return found


def _runtime(rows: pd.DataFrame, method: str) -> float | None:
    """Seconds per megapixel of output: the median over the images, which the first, slow one does not move."""
    measured = rows[(rows["method"] == method) & (rows["status"] == OK)]
    if measured.empty:
        return None
    return float((measured["seconds"] / (measured["height"] * measured["width"] / 1e6)).median())
