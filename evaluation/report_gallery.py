"""The gallery of the report: the images of each case, lossless and inside the file, as many as its size allows."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from degradations.words import describe_record
from evaluation.config import EvaluationConfig
from evaluation.metrics import METRICS
from evaluation.report_figures import TILE_METRICS
from evaluation.report_words import HQ, in_sentence, signed_text, value_text
from evaluation.rows import BICUBIC, MODEL, OK


@dataclass(frozen=True)
class Picture:
    """The images of one test image by role (lq enlarged to HQ size, methods, hq), uint8 (H, W, 3) each."""

    key: str
    images: Mapping[str, np.ndarray]
    record: Mapping[str, Any]
    """How the LQ image was made; may be empty."""


@dataclass(frozen=True)
class Gallery:
    """The cases that fit, worst first, and how many pictures were left out because they did not."""

    cases: list[dict[str, Any]]
    left_out: int


def build_gallery(
    summary: Mapping[str, Any],
    rows: pd.DataFrame,
    pictures: Sequence[Picture],
    labels: Mapping[str, str],
    config: EvaluationConfig,
) -> Gallery:
    """Encode pictures, alternating between the worst and the best, until the size allowed is spent."""
    left = config.report_megabytes * 1e6
    cases: dict[str, dict[str, Any]] = {}
    for picture in _by_interest(pictures):
        shown = {role: _data_uri(_middle(image, config.report_image_size)) for role, image in picture.images.items()}
        size = sum(map(len, shown.values()))
        if cases and size > left:
            break
        left -= size
        cases[picture.key] = _case(summary, rows, picture, labels, config.report_image_size, shown)
    ordered = [cases[picture.key] for picture in pictures if picture.key in cases]
    return Gallery(ordered, len(pictures) - len(ordered))


def gallery_note(summary: Mapping[str, Any], labels: Mapping[str, str], gallery: Gallery) -> str:
    """What is shown and in which order."""
    metric, shown = METRICS[summary["ranking_metric"]].label, len(gallery.cases)
    which = "All images" if shown >= summary["num_images"] else f"{shown} of {summary['num_images']} images"
    if gallery.left_out:
        which += f" ({gallery.left_out} more would make this file too large)"
    return (
        f"{which}, the worst cases first: those where {metric} improves least over {in_sentence(BICUBIC, labels)}. "
        "Drag across an image to move the edge, double-click to look closer. The small coloured figures say how the "
        f"result differs from {in_sentence(BICUBIC, labels)}."
    )


def roles_shown(pictures: Sequence[Picture], labels: Mapping[str, str]) -> list[str]:
    """The roles a person can choose from, in the order of the labels."""
    present = {role for picture in pictures for role in picture.images}
    return [role for role in labels if role in present]


def _by_interest(pictures: Sequence[Picture]) -> list[Picture]:
    """Worst, best, second worst, second best, ...: what should be seen even if not all fits."""
    order = []
    for number in range(len(pictures)):
        half = number // 2
        order.append(pictures[half] if number % 2 == 0 else pictures[-1 - half])
    return order


def _case(
    summary: Mapping[str, Any],
    rows: pd.DataFrame,
    picture: Picture,
    labels: Mapping[str, str],
    image_size: int,
    shown: Mapping[str, str],
) -> dict[str, Any]:
    measured = rows[(rows["key"] == picture.key) & (rows["status"] == OK)].set_index("method")
    height, width = picture.images[HQ].shape[:2]
    position = summary["ranking"].index(picture.key)
    return {
        "key": picture.key,
        "title": str(picture.record.get("source", picture.key)),
        "rank": _rank(position, len(summary["ranking"])),
        "verdict": _verdict(summary["ranking_metric"], measured),
        "width": min(width, image_size),
        "height": min(height, image_size),
        "images": [{"role": role, "label": labels[role], "data": data} for role, data in shown.items()],
        "chips": [chip for name in summary["metrics"] if (chip := _chip(name, measured))],
        "steps": _steps(picture.record),
        "note": f"The middle {image_size} px of {width}×{height}." if max(height, width) > image_size else "",
    }


def _chip(name: str, measured: pd.DataFrame) -> dict[str, str] | None:
    own, reference = measured[name].get(MODEL), measured[name].get(BICUBIC)
    if name not in TILE_METRICS or pd.isna(own) or pd.isna(reference):
        return None
    tone = "up" if METRICS[name].improvement(own, reference) > 0 else "down"
    change = signed_text(name, own - reference)
    return {"label": METRICS[name].label, "value": value_text(name, own), "change": change, "tone": tone}


def _steps(record: Mapping[str, Any]) -> list[str]:
    """The degradation in words."""
    if "degradation" not in record:
        return []
    try:
        return describe_record(record["degradation"])
    except ValueError:
        return ["degraded by another version, whose record this one cannot read"]


def _rank(position: int, count: int) -> str:
    if position == 0:
        return "worst"
    return "best" if position == count - 1 else f"{position + 1} of {count}"


def _verdict(metric: str, measured: pd.DataFrame) -> str:
    if not {BICUBIC, MODEL} <= set(measured.index):
        return "even"
    better = METRICS[metric].improvement(measured[metric][MODEL], measured[metric][BICUBIC]) > 0
    return "better" if better else "worse"


def _middle(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (max(0, (side - size) // 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def _data_uri(image: np.ndarray) -> str:
    """A lossless image as data URI: what is judged must be what was restored."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", lossless=True, method=1)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
