"""The figures of the report: facts, large figures, the table with intervals, worst and best images, all images."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from evaluation.metrics import METRICS
from evaluation.report_words import fewer, in_sentence, signed_text, unit_text, value_text, verdict
from evaluation.rows import BICUBIC, CHAMPION, MODEL, OK
from evaluation.strip_plot import strip_plot
from evaluation.summary import OWN, improvements, methods_of, paired_values

TILE_METRICS = ("lpips_alex", "psnr_y", "ssim_y")
MAX_ROWS = 500

Summary = Mapping[str, Any]
Labels = Mapping[str, str]


def lead(summary: Summary, labels: Labels) -> str:
    """One sentence that says how the model stands."""
    name = summary["ranking_metric"]
    figures = summary["metrics"][name]
    if not figures["methods"]:
        return "No image could be measured; the reasons stand below."
    words = {"better": "better than", "worse": "worse than", "even": "not clearly different from"}
    comparisons = [
        f"{words[verdict(gain)]} {in_sentence(method, labels)} ({value_text(name, figures['methods'][method]['mean'])})"
        for method, gain in figures["improvement_over"].items()
        if method in OWN
    ]
    definition = METRICS[name]
    sense = "" if definition.unit else f" ({'higher' if definition.higher_is_better else 'lower'} is better)"
    reached = f"{definition.label} {value_text(name, figures['methods'][MODEL]['mean'])}{unit_text(name)}{sense}"
    return f"On {figures['num_images']} test images the model reaches {reached}: {' and '.join(comparisons)}."


def facts(summary: Summary) -> list[tuple[str, str]]:
    """What was evaluated, and how fast it ran, as (name, value)."""
    protocol, model = summary["protocol"], summary["model"]
    images = f"{summary['num_images']}"
    if summary["num_groups"] != summary["num_images"]:
        images += f" from {summary['num_groups']} photos"
    return [
        ("Model", model["uri"]),
        ("Test set", summary["data"]),
        ("Images", images),
        ("Task", f"{protocol['task'].replace('_', ' ')} ×{protocol['scale']}"),
        ("Seed", str(protocol["seed"])),
        ("Arithmetic", protocol["precision"]),
        ("Tiles", f"{protocol['tile_size']} px, overlap {protocol['tile_overlap']} px"),
        ("Runtime", _runtime(summary)),
        ("Protocol", summary["protocol_digest"][:12]),
    ]


def _runtime(summary: Summary) -> str:
    seconds = summary["seconds_per_megapixel"]
    if seconds.get(MODEL) is None:
        return "not measured"
    champion = f" (champion {seconds[CHAMPION]:.3g} s)" if seconds.get(CHAMPION) is not None else ""
    batch = f", batches of {summary['batch_size']}" if summary["batch_size"] > 1 else ""
    return f"{seconds[MODEL]:.3g} s per megapixel{champion}, {summary['device']}{batch}"


def tile(summary: Summary, name: str, labels: Labels) -> dict[str, Any] | None:
    """One of the large figures at the top; None for a metric that was not measured."""
    figures = summary["metrics"].get(name)
    if not figures or not figures["methods"]:
        return None
    others = [
        " ".join([in_sentence(method, labels), value_text(name, interval["mean"]), fewer(interval, figures)]).rstrip()
        for method, interval in figures["methods"].items()
        if method != MODEL
    ]
    return {
        "label": METRICS[name].label,
        "value": value_text(name, figures["methods"][MODEL]["mean"]),
        "unit": METRICS[name].unit or ("higher is better" if METRICS[name].higher_is_better else "lower is better"),
        "against": " · ".join(others),
        "pills": [
            {"verdict": verdict(gain), "text": f"{_gain_words(name, gain)} {in_sentence(method, labels)}"}
            for method, gain in figures["improvement_over"].items()
        ],
    }


def _gain_words(name: str, gain: Mapping[str, Any]) -> str:
    kind = verdict(gain)
    if kind == "even":
        return "no clear difference to"
    return f"{value_text(name, abs(gain['mean']))}{unit_text(name)} {kind} than"


def figure_row(summary: Summary, rows: pd.DataFrame, name: str, labels: Labels) -> dict[str, Any]:
    """One metric in the table: each method's mean, and the improvement over each with interval and strip plot."""
    definition, figures = METRICS[name], summary["metrics"][name]
    measured, methods = figures["num_images"], methods_of(rows)
    return {
        "label": definition.label + (f", {definition.unit}" if definition.unit else ""),
        "direction": "higher is better" if definition.higher_is_better else "lower is better",
        "note": "" if measured in (0, summary["num_images"]) else f"measured on {measured} images",
        "cells": [
            {"label": labels[method], "own": method == MODEL, **_mean(name, figures, method)} for method in methods
        ],
        "gains": [_gain(name, figures, rows, method, labels) for method in methods if method != MODEL],
    }


def _mean(name: str, figures: Mapping[str, Any], method: str) -> dict[str, str]:
    interval = figures["methods"].get(method)
    if interval is None:
        return {"value": "–", "note": ""}
    return {"value": value_text(name, interval["mean"]), "note": fewer(interval, figures)}


def _gain(name: str, figures: Mapping[str, Any], rows: pd.DataFrame, method: str, labels: Labels) -> dict[str, Any]:
    gain: dict[str, Any] = {"reference": in_sentence(method, labels), "text": ""}
    interval = figures["improvement_over"].get(method)
    if interval is None:
        return gain
    ends = [interval["low"], interval["high"]]
    span = "interval unknown: one photo"
    if None not in ends:
        span = f"[{signed_text(name, ends[0])}, {signed_text(name, ends[1])}]"
    table = paired_values(rows, name, OWN if method in OWN else [MODEL, method])
    return gain | {
        "text": signed_text(name, interval["mean"]) + unit_text(name),
        "range": span,
        "note": fewer(interval, figures),
        "verdict": verdict(interval),
        "spoken": f"{METRICS[name].label}: mean improvement {interval['mean']:.4g}",
        **strip_plot(improvements(table, name, method).to_numpy(), interval),
    }


def extremes(summary: Summary, labels: Labels) -> list[dict[str, Any]]:
    """Per metric and reference, the images where the model gains least and most."""
    found = []
    for name, by_reference in summary["extremes"].items():
        for reference, images in by_reference.items():
            lists = {
                which: [{"key": key, "gain": signed_text(name, gain)} for key, gain in images[which]]
                for which in ("worst", "best")
            }
            found.append({"label": METRICS[name].label, "reference": in_sentence(reference, labels), **lists})
    return found


def all_rows(summary: Summary, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One line per image, worst first: each metric's figure and its difference from bicubic."""
    measured = rows[rows["status"] == OK]
    own = measured[measured["method"] == MODEL].set_index("key")
    reference = measured[measured["method"] == BICUBIC].set_index("key")
    out = []
    for key in summary["ranking"][:MAX_ROWS]:
        cells = []
        for name in summary["metrics"]:
            value, against = own[name].get(key), reference[name].get(key)
            cells.append(
                {
                    "value": "–" if pd.isna(value) else value_text(name, value),
                    "change": "" if pd.isna(value) or pd.isna(against) else signed_text(name, value - against),
                }
            )
        out.append({"key": key, "cells": cells})
    return out
