"""Register a checkpoint of a denoiser's training: the best in validation, the newest, or that of a step."""

from typing import Annotated

import typer

from infra.cli import OverridesArgument, RecipeOption, run
from infra.recipe import load_recipe


def main(
    recipe: RecipeOption,
    data: Annotated[str, typer.Option(help="The --data of the training.", show_default=False)],
    out: Annotated[str, typer.Option(help="The --out of the training.", show_default=False)],
    overrides: OverridesArgument = None,
    checkpoint: Annotated[
        str, typer.Option(help="best (in validation, by training.best_metric), newest, or a number of steps.")
    ] = "best",
) -> None:
    """Register a checkpoint of a denoiser's training: the best in validation, the newest, or that of a step.

    The training may still be going on. Exit codes: 0 done, 1 failed, 2 wrong usage.
    """
    from training.denoiser_export import export_checkpoint  # late: --help and mistakes are answered at once

    print(export_checkpoint(load_recipe(recipe, overrides), data, out, checkpoint))


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
