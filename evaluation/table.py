"""Tables for the terminal: the figures of an evaluation, and the gates of a promotion."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.gates import GateResult
from evaluation.metrics import METRICS
from evaluation.report_words import fewer
from evaluation.rows import BICUBIC, CHAMPION, MODEL
from evaluation.summary import improvement_text


def console() -> Console:
    """A console for tables: as wide as the terminal, and wide enough for a table where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Means of each method, and the model's improvement over the others with its interval."""
    champion = summary["champion"]
    names = {name: name for name in summary["others"]}
    names[BICUBIC] = "bicubic" if summary["protocol"]["scale"] > 1 else "input"
    names |= {CHAMPION: f"champion v{champion['version']}" if champion else "", MODEL: "model"}
    methods = max((list(figures["methods"]) for figures in summary["metrics"].values()), key=len)
    table = Table(title=f"{summary['title']}: {summary['num_images']} images, {len(summary['failed'])} failed")
    table.add_column("metric")
    for method in methods:
        table.add_column(names[method], justify="right", style="bold" if method == MODEL else None)
    for method in methods[:-1]:
        table.add_column(f"improvement over {names[method]}", justify="right")
    for name, figures in summary["metrics"].items():
        means = [_mean(name, figures, figures["methods"].get(method)) for method in methods]
        gains = [_gain(name, figures, figures["improvement_over"].get(method)) for method in methods[:-1]]
        arrow = "↑" if METRICS[name].higher_is_better else "↓"
        table.add_row(f"{METRICS[name].label} {arrow}", *means, *gains)
    return table


def _mean(name: str, figures: Mapping[str, Any], interval: Mapping[str, Any] | None) -> str:
    """A dash where an image was too small for a metric, or a method lacks it."""
    if interval is None:
        return "–"
    return f"{interval['mean']:.{METRICS[name].decimals}f}\n{fewer(interval, figures)}".rstrip()


def _gain(name: str, figures: Mapping[str, Any], interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return "–"
    return f"{escape(improvement_text(name, interval))}\n{fewer(interval, figures)}".rstrip()


def extreme_lines(summary: Mapping[str, Any], count: int = 3) -> list[str]:
    """The images that gain least and most in the ranking metric, over each reference, in a line each."""
    name = summary["ranking_metric"]
    lines = []
    for reference, images in summary["extremes"][name].items():
        for which, words in (("worst", "least"), ("best", "most")):
            shown = ", ".join(f"{key} {gain:+.{METRICS[name].decimals}f}" for key, gain in images[which][:count])
            lines.append(f"{METRICS[name].label} improves {words} over {reference}: {shown}")
    return lines


def gates_table(name: str, version: str, results: Sequence[GateResult]) -> Table:
    """One line per gate: passed or not, measured, required."""
    table = Table(title=f"{name} version {version}")
    for column in ("", "gate", "measured", "required"):
        table.add_column(column)
    for result in results:
        sign = "[green]pass[/green]" if result.passed else "[red]FAIL[/red]"
        table.add_row(sign, result.gate, escape(result.measured), result.required)
    return table
