"""Tables for the terminal: the figures of an evaluation, and the gates of a promotion."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.gates import GateResult
from evaluation.metrics import METRICS
from evaluation.rows import BICUBIC, CHAMPION, MODEL
from evaluation.summary import improvement_text


def console() -> Console:
    """A console for tables: as wide as the terminal, and wide enough for a table where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Means of each method, and the model's improvement over the others with its interval."""
    champion = summary["champion"]
    baseline = "bicubic" if summary["protocol"]["scale"] > 1 else "input"
    names = {BICUBIC: baseline, CHAMPION: f"champion v{champion['version']}" if champion else "", MODEL: "model"}
    methods = max((list(figures["methods"]) for figures in summary["metrics"].values()), key=len)
    table = Table(title=f"{summary['title']}: {summary['num_images']} images, {len(summary['failed'])} failed")
    table.add_column("metric")
    for method in methods:
        table.add_column(names[method], justify="right", style="bold" if method == MODEL else None)
    for method in methods[:-1]:
        table.add_column(f"improvement over {names[method]}", justify="right")
    for name, figures in summary["metrics"].items():
        decimals = METRICS[name].decimals
        means = [f"{figures['methods'][method]['mean']:.{decimals}f}" for method in figures["methods"]]
        gains = [escape(improvement_text(name, interval)) for interval in figures["improvement_over"].values()]
        arrow = "↑" if METRICS[name].higher_is_better else "↓"
        cells = [*means, *gains] or ["–"] * (2 * len(methods) - 1)  # too small for this metric, every image
        table.add_row(f"{METRICS[name].label} {arrow}", *cells)
    return table


def gates_table(name: str, version: str, results: Sequence[GateResult]) -> Table:
    """One line per gate: passed or not, measured, required."""
    table = Table(title=f"{name} version {version}")
    for column in ("", "gate", "measured", "required"):
        table.add_column(column)
    for result in results:
        sign = "[green]pass[/green]" if result.passed else "[red]FAIL[/red]"
        table.add_row(sign, result.gate, escape(result.measured), result.required)
    return table
