"""Evaluate a model on a test set: per-image rows, figures with intervals, a report, a run on MLflow."""

import json
from typing import Annotated

import typer

from infra.cli import DryRunOption, OutOption, OverridesArgument, RecipeOption, WorkersOption, run
from infra.recipe import load_recipe


def main(
    recipe: RecipeOption,
    model: Annotated[
        str,
        typer.Option(
            help="models:/name@champion, models:/name/3, runs:/id/model, or a bundle folder.", show_default=False
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Pair shards (the --out of make_pairs.py), a folder with hq/ and lq/, or one of HQ images.",
            show_default=False,
        ),
    ],
    out: OutOption,
    lq: Annotated[str | None, typer.Option(help="Folder of LQ images, where --data is one of HQ images.")] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="Images another method restored, to measure beside; may be repeated."),
    ] = None,
    workers: WorkersOption = None,
    dry_run: DryRunOption = False,
    overrides: OverridesArgument = None,
) -> None:
    """Evaluate a model on a test set, beside bicubic, the champion and other methods; the same command resumes."""
    loaded = load_recipe(recipe, overrides or [])
    from evaluation.batch_evaluation import REPORT_FILE, evaluate  # late: --help is answered at once
    from evaluation.evaluation_plan import Request
    from evaluation.table import console, extreme_lines, summary_table
    from infra import storage

    request = Request(model, data, out, lq, tuple(other or ()))
    result = evaluate(loaded, request, workers, dry_run)
    if dry_run:
        print(json.dumps(result, indent=2))
        return
    printer = console()
    printer.print(summary_table(result))
    for line in extreme_lines(result):
        printer.print(line, soft_wrap=True, highlight=False, markup=False)
    printer.print(f"report: {storage.join(out, REPORT_FILE)}", soft_wrap=True, highlight=False)


def cli() -> None:
    """Entry point of the console script."""
    run(main)


if __name__ == "__main__":
    cli()
