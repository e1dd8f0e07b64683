"""report.html: one file that holds everything a person needs to judge an evaluation, images included.

Values go through a template with escaping on; nothing is fetched when the file is opened.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from evaluation.config import EvaluationConfig
from evaluation.metrics import METRICS
from evaluation.report_figures import MAX_ROWS, TILE_METRICS, all_rows, extremes, facts, figure_row, lead, tile
from evaluation.report_gallery import Picture, build_gallery, gallery_note, roles_shown
from evaluation.report_words import HQ, LQ, in_sentence, labels_of
from evaluation.rows import BICUBIC, MODEL
from evaluation.summary import methods_of

PARTS = ("report_template.html", "report_style.css", "report_script.js")


def render_report(
    summary: Mapping[str, Any], rows: pd.DataFrame, pictures: Sequence[Picture], config: EvaluationConfig
) -> str:
    """The report as HTML. `summary` is the content of summary.json; pictures come worst first, in the ranking's order.

    Of an image larger than `config.report_image_size` pixels the middle is shown.
    """
    template, style, script = (resources.files("evaluation").joinpath(name).read_text() for name in PARTS)
    labels, methods = labels_of(summary), methods_of(rows)
    gallery = build_gallery(summary, rows, pictures, labels, config)
    roles = roles_shown(pictures, labels)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        style=style,
        script=script,
        title=summary["title"],
        lead=lead(summary, labels),
        facts=facts(summary),
        failed=summary["failed"],
        incomplete=_incomplete(summary),
        tiles=[found for name in TILE_METRICS if (found := tile(summary, name, labels))],
        confidence=f"{summary['confidence']:.0%}",
        columns=[{"label": labels[method], "own": method == MODEL} for method in methods],
        references=[in_sentence(method, labels) for method in methods if method != MODEL],
        figures=[figure_row(summary, rows, name, labels) for name in summary["metrics"]],
        gallery_note=gallery_note(summary, labels, gallery),
        roles=[{"role": role, "label": labels[role]} for role in roles],
        role_names={role: labels[role] for role in roles},
        left_role=LQ,
        right_role=MODEL if MODEL in roles else HQ,
        cases=gallery.cases,
        shown_keys={case["key"] for case in gallery.cases},
        extremes=extremes(summary, labels),
        all_labels=[METRICS[name].label for name in summary["metrics"]],
        baseline=in_sentence(BICUBIC, labels),
        all_rows=all_rows(summary, rows),
        all_cut=summary["num_images"] if len(summary["ranking"]) > MAX_ROWS else None,
        definitions=[{"label": METRICS[name].label, "meaning": METRICS[name].meaning} for name in summary["metrics"]],
        method_note=_method_note(summary),
        protocol_digest=summary["protocol_digest"],
        protocol_text=json.dumps(summary["protocol"], indent=2, ensure_ascii=False),
        code_version=summary["code_version"],
        made_at=summary["made_at"],
    )


def _incomplete(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Other methods that lack images."""
    return [
        {"method": method, "count": len(failed), "reasons": [item["error"] for item in failed]}
        for method, failed in summary["failed_others"].items()
        if failed
    ]


def _method_note(summary: Mapping[str, Any]) -> str:
    groups = again = ""
    if summary["num_groups"] != summary["num_images"]:
        groups = " Images that stem from one photo are resampled together, for they are not independent."
    if summary["champion"] and summary["champion"].get("evaluation_run_id"):
        again = (
            " The champion's figures are those of its own evaluation under this protocol, run "
            f"{summary['champion']['evaluation_run_id']}."
        )
    return (
        f"Every method is measured on the same images, and the figures are paired differences. Intervals: percentile "
        f"bootstrap, {summary['bootstrap_resamples']} resamples.{groups} The noise of each image is derived from the "
        f"seed and the image's name alone, so the figures do not depend on how the work was spread over machines."
        + again
    )
