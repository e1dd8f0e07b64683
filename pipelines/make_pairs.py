"""Synthesise HQ/LQ pairs from photos into WebDataset shards. The same command resumes."""

from typing import Annotated

import typer

from infra.cli import CpuPriceOption, DryRunOption, OutOption, OverridesArgument, RecipeOption, WorkersOption, run
from infra.recipe import load_recipe
from pipelines.estimate import Prices
from pipelines.pairs import make_pairs


def main(
    recipe: RecipeOption,
    source: Annotated[
        str, typer.Option(help="Folder or s3:// prefix of images or tars; .txt or .parquet list.", show_default=False)
    ],
    out: OutOption,
    overrides: OverridesArgument = None,
    workers: WorkersOption = None,
    dry_run: DryRunOption = False,
    price_per_cpu_hour: CpuPriceOption = None,
) -> None:
    """Synthesise HQ/LQ pairs from photos into WebDataset shards. The same command resumes."""
    prices = Prices(cpu_hour=price_per_cpu_hour)
    print(make_pairs(load_recipe(recipe, overrides), source, out, workers, dry_run, prices))


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
