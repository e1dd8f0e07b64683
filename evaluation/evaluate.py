"""Evaluate a model on a test set: per-image rows, figures with intervals, a report, a run on MLflow."""

import json
from typing import Annotated

import typer

from evaluation.batch_evaluation import REPORT_FILE, evaluate
from evaluation.table import console, summary_table
from infra import storage
from infra.cli import DryRunOption, OutOption, OverridesArgument, RecipeOption, WorkersOption, run
from infra.recipe import load_recipe


def main(
    recipe: RecipeOption,
    model: Annotated[
        str, typer.Option(help="models:/name@champion, models:/name/3, or a bundle folder.", show_default=False)
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Pair shards (the --out of make_pairs.py), or a folder with hq/ and lq/.", show_default=False
        ),
    ],
    out: OutOption,
    workers: WorkersOption = None,
    dry_run: DryRunOption = False,
    overrides: OverridesArgument = None,
) -> None:
    """Evaluate a model on a test set, beside bicubic and the current champion; the same command resumes."""
    result = evaluate(load_recipe(recipe, overrides or []), model, data, out, workers, dry_run)
    if dry_run:
        print(json.dumps(result, indent=2))
        return
    printer = console()
    printer.print(summary_table(result))
    printer.print(f"report: {storage.join(out, REPORT_FILE)}", soft_wrap=True, highlight=False)


def cli() -> None:
    """Entry point of the console script."""
    run(main)


if __name__ == "__main__":
    cli()
