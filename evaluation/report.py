"""report.html: one file that holds everything a person needs to judge an evaluation, images included.

Values go through a template with escaping on; nothing is fetched when the file is opened.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from PIL import Image

from degradations.words import describe_record
from evaluation.metrics import METRICS
from evaluation.rows import BICUBIC, CHAMPION, MODEL, OK
from evaluation.strip_plot import strip_plot
from evaluation.summary import improvements, methods_of, paired_values

LQ, HQ = "lq", "hq"  # with MODEL and CHAMPION the roles of the images of a picture
TILE_METRICS = ("lpips_alex", "psnr_y", "ssim_y")
MAX_ROWS = 500
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Picture:
    """The images of one test image by role (lq enlarged to HQ size, model, hq, champion), uint8 (H, W, 3) each."""

    key: str
    images: Mapping[str, np.ndarray]
    record: Mapping[str, Any]
    """How the LQ image was made; may be empty."""


def render_report(summary: Mapping[str, Any], rows: pd.DataFrame, pictures: Sequence[Picture], image_size: int) -> str:
    """The report as HTML. `summary` is the content of summary.json; pictures are shown in the order given.

    Of an image larger than `image_size` pixels the middle is shown.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = resources.files("evaluation").joinpath("report_template.html").read_text()
    labels = _labels(summary)
    return environment.from_string(template).render(
        title=summary["title"],
        lead=_lead(summary, labels),
        facts=_facts(summary),
        failed=summary["failed"],
        tiles=[tile for name in TILE_METRICS if (tile := _tile(summary, name, labels))],
        confidence=f"{summary['confidence']:.0%}",
        columns=[{"label": labels[method]} for method in methods_of(rows)],
        references=[_in_sentence(labels[method]) for method in methods_of(rows) if method != MODEL],
        figures=[_figure_row(summary, rows, name, labels) for name in summary["metrics"]],
        gallery_note=_gallery_note(summary, labels, len(pictures)),
        pairs=_pairs(pictures, labels),
        role_names=labels,
        cases=[_case(summary, rows, picture, labels, image_size) for picture in pictures],
        all_labels=[METRICS[name].label for name in summary["metrics"]],
        baseline=_in_sentence(labels[BICUBIC]),
        all_rows=_all_rows(summary, rows),
        all_cut=summary["num_images"] if len(summary["ranking"]) > MAX_ROWS else None,
        definitions=[{"label": METRICS[name].label, "meaning": METRICS[name].meaning} for name in summary["metrics"]],
        method_note=_method_note(summary),
        protocol_digest=summary["protocol_digest"],
        protocol_text=json.dumps(summary["protocol"], indent=2, ensure_ascii=False),
        code_version=summary["code_version"],
        made_at=summary["made_at"],
    )


def verdict(improvement: Mapping[str, Any]) -> str:
    """`better` or `worse` when the interval is clear of zero, else `even`."""
    low, high = improvement["low"], improvement["high"]
    if low is not None and low > 0:
        return "better"
    return "worse" if high is not None and high < 0 else "even"


def _labels(summary: Mapping[str, Any]) -> dict[str, str]:
    """What a person reads for each method and role."""
    enlarged = summary["protocol"]["scale"] > 1
    champion = summary["champion"]
    return {
        BICUBIC: "Bicubic" if enlarged else "Input",
        LQ: "LQ, bicubic" if enlarged else "LQ",
        MODEL: "Result",
        HQ: "HQ",
        CHAMPION: f"Champion (v{champion['version']})" if champion else "Champion",
    }


def _in_sentence(label: str) -> str:
    return ("the " if label.startswith("Champion") else "") + label[0].lower() + label[1:]


def _lead(summary: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    name = summary["ranking_metric"]
    figures = summary["metrics"][name]
    if not figures["methods"]:
        return "No image could be measured; the reasons stand below."
    words = {"better": "better than", "worse": "worse than", "even": "not clearly different from"}
    comparisons = [
        f"{words[verdict(gain)]} {_in_sentence(labels[method])} ({_value(name, figures['methods'][method]['mean'])})"
        for method, gain in figures["improvement_over"].items()
    ]
    definition = METRICS[name]
    sense = "" if definition.unit else f" ({'higher' if definition.higher_is_better else 'lower'} is better)"
    reached = f"{definition.label} {_value(name, figures['methods'][MODEL]['mean'])}{_unit(name)}{sense}"
    return f"On {figures['num_images']} test images the model reaches {reached}: {' and '.join(comparisons)}."


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    protocol, model = summary["protocol"], summary["model"]
    speed = summary["seconds_per_megapixel"].get(MODEL)
    images = f"{summary['num_images']}"
    if summary["num_groups"] != summary["num_images"]:
        images += f" from {summary['num_groups']} photos"
    return [
        ("Model", model["uri"]),
        ("Test set", summary["data"]),
        ("Images", images),
        ("Task", f"{protocol['task'].replace('_', ' ')} ×{protocol['scale']}"),
        ("Seed", str(protocol["seed"])),
        ("Tiles", f"{protocol['tile_size']} px, overlap {protocol['tile_overlap']} px"),
        ("Runtime", f"{speed:.2f} s per megapixel, {summary['device']}" if speed is not None else "not measured"),
        ("Protocol", summary["protocol_digest"][:12]),
    ]


def _tile(summary: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> dict[str, Any] | None:
    """One of the large figures at the top; None for a metric that was not measured."""
    figures = summary["metrics"].get(name)
    if not figures or not figures["methods"]:
        return None
    unit = METRICS[name].unit
    others = [
        f"{_in_sentence(labels[method])} {_value(name, interval['mean'])}"
        for method, interval in figures["methods"].items()
        if method != MODEL
    ]
    return {
        "label": METRICS[name].label,
        "value": _value(name, figures["methods"][MODEL]["mean"]),
        "unit": unit or ("higher is better" if METRICS[name].higher_is_better else "lower is better"),
        "against": " · ".join(others),
        "pills": [
            {"verdict": verdict(gain), "text": f"{_gain_words(name, gain)} {_in_sentence(labels[method])}"}
            for method, gain in figures["improvement_over"].items()
        ],
    }


def _gain_words(name: str, gain: Mapping[str, Any]) -> str:
    kind = verdict(gain)
    if kind == "even":
        return "no clear difference to"
    return f"{_value(name, abs(gain['mean']))}{_unit(name)} {kind} than"


def _figure_row(summary: Mapping[str, Any], rows: pd.DataFrame, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    definition, figures = METRICS[name], summary["metrics"][name]
    table = paired_values(rows, name)
    gains = []
    for method in methods_of(rows):
        if method == MODEL:
            continue
        gain: dict[str, Any] = {"reference": _in_sentence(labels[method]), "text": ""}
        if interval := figures["improvement_over"].get(method):
            ends = [interval["low"], interval["high"]]
            span = (
                "interval unknown: one photo"
                if None in ends
                else f"[{_signed(name, ends[0])}, {_signed(name, ends[1])}]"
            )
            gain |= {
                "text": _signed(name, interval["mean"]) + _unit(name),
                "range": span,
                "verdict": verdict(interval),
                "spoken": f"{definition.label}: mean improvement {interval['mean']:.4g}",
                **strip_plot(improvements(table, name, method).to_numpy(), interval),
            }
        gains.append(gain)
    measured = figures["num_images"]
    return {
        "label": definition.label + (f", {definition.unit}" if definition.unit else ""),
        "direction": "higher is better" if definition.higher_is_better else "lower is better",
        "note": "" if measured == summary["num_images"] else f"measured on {measured} images",
        "cells": [
            {
                "label": labels[method],
                "own": method == MODEL,
                "value": _value(name, figures["methods"][method]["mean"]) if figures["methods"] else "–",
            }
            for method in methods_of(rows)
        ],
        "gains": gains,
    }


def _gallery_note(summary: Mapping[str, Any], labels: Mapping[str, str], shown: int) -> str:
    metric = METRICS[summary["ranking_metric"]].label
    which = "All images" if shown >= summary["num_images"] else f"{shown} of {summary['num_images']} images"
    return (
        f"{which}, the worst cases first: those where {metric} improves least over {_in_sentence(labels[BICUBIC])}. "
        "Drag across an image to move the edge. The small coloured figures say how the result differs from "
        f"{_in_sentence(labels[BICUBIC])}."
    )


def _pairs(pictures: Sequence[Picture], labels: Mapping[str, str]) -> list[dict[str, str]]:
    """The comparisons a person can choose between."""
    pairs = [(LQ, MODEL), (MODEL, HQ), (LQ, HQ)]
    if any(CHAMPION in picture.images for picture in pictures):
        pairs.insert(1, (CHAMPION, MODEL))
    return [
        {
            "left": left,
            "right": right,
            "left_label": labels[left],
            "right_label": labels[right],
            "label": f"{labels[left].partition(',')[0]} | {labels[right]}",
        }
        for left, right in pairs
    ]


def _case(
    summary: Mapping[str, Any],
    rows: pd.DataFrame,
    picture: Picture,
    labels: Mapping[str, str],
    image_size: int,
) -> dict[str, Any]:
    """One figure of the gallery."""
    measured = rows[(rows["key"] == picture.key) & (rows["status"] == OK)].set_index("method")
    chips = []
    for name in summary["metrics"]:
        own, reference = measured[name].get(MODEL), measured[name].get(BICUBIC)
        if name in TILE_METRICS and own is not None and reference is not None and not pd.isna(own):
            change = METRICS[name].improvement(own, reference)
            chips.append(
                {
                    "label": METRICS[name].label,
                    "value": _value(name, own),
                    "change": f"{_signed(name, own - reference)}",
                    "tone": "up" if change > 0 else "down",
                }
            )
    height, width = picture.images[HQ].shape[:2]
    sides = {LQ: "left", MODEL: "right"}
    note = f"The middle {image_size} px of {width}×{height}." if max(height, width) > image_size else ""
    shown = {role: _middle(image, image_size) for role, image in picture.images.items()}
    position = summary["ranking"].index(picture.key)
    improved = _improved(summary, measured)
    return {
        "key": picture.key,
        "title": str(picture.record.get("source", picture.key)),
        "rank": _rank(position, len(summary["ranking"])),
        "verdict": "even" if improved is None else "better" if improved else "worse",
        "width": shown[HQ].shape[1],
        "height": shown[HQ].shape[0],
        "images": [
            {"role": role, "side": sides.get(role, ""), "label": labels[role], "data": _data_uri(image)}
            for role, image in shown.items()
        ],
        "chips": chips,
        "steps": describe_record(picture.record["degradation"]) if "degradation" in picture.record else [],
        "note": note,
    }


def _rank(position: int, count: int) -> str:
    if position == 0:
        return "worst"
    return "best" if position == count - 1 else f"{position + 1} of {count}"


def _improved(summary: Mapping[str, Any], measured: pd.DataFrame) -> bool | None:
    name = summary["ranking_metric"]
    if BICUBIC not in measured.index or MODEL not in measured.index:
        return None
    return METRICS[name].improvement(measured[name][MODEL], measured[name][BICUBIC]) > 0


def _all_rows(summary: Mapping[str, Any], rows: pd.DataFrame) -> list[dict[str, Any]]:
    measured = rows[rows["status"] == OK]
    own = measured[measured["method"] == MODEL].set_index("key")
    reference = measured[measured["method"] == BICUBIC].set_index("key")
    out = []
    for key in summary["ranking"][:MAX_ROWS]:
        cells = []
        for name in summary["metrics"]:
            value, against = own[name].get(key), reference[name].get(key)
            missing = value is None or pd.isna(value)
            cells.append(
                {"value": "–", "change": ""}
                if missing
                else {"value": _value(name, value), "change": _signed(name, value - against)}
            )
        out.append({"key": key, "cells": cells})
    return out


def _method_note(summary: Mapping[str, Any]) -> str:
    groups = ""
    if summary["num_groups"] != summary["num_images"]:
        groups = " Images that stem from one photo are resampled together, for they are not independent."
    return (
        f"Every method is measured on the same images, and the figures are paired differences. Intervals: percentile "
        f"bootstrap, {summary['bootstrap_resamples']} resamples.{groups} The noise of each image is derived from the "
        f"seed and the image's name alone, so the figures do not depend on how the work was spread over machines."
    )


def _value(name: str, value: float) -> str:
    return f"{value:.{METRICS[name].decimals}f}".replace("-", MINUS)


def _signed(name: str, value: float) -> str:
    return f"{value:+.{METRICS[name].decimals}f}".replace("-", MINUS)


def _unit(name: str) -> str:
    return f" {METRICS[name].unit}" if METRICS[name].unit else ""


def _middle(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (max(0, (side - size) // 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def _data_uri(image: np.ndarray) -> str:
    """A lossless image as data URI: what is judged must be what was restored."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", lossless=True, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
