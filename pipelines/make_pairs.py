"""Synthesise HQ/LQ pairs from photos into WebDataset shards. The same command resumes."""

from typing import Annotated

import typer

from infra.cli import CpuPriceOption, DryRunOption, OutOption, OverridesArgument, RecipeOption, WorkersOption, run
from infra.recipe import load_recipe


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
    loaded = load_recipe(recipe, overrides)
    from pipelines.estimate import Prices  # late: --help and a wrong recipe are answered at once
    from pipelines.pairs import make_pairs

    print(make_pairs(loaded, source, out, workers, dry_run, Prices(cpu_hour=price_per_cpu_hour)))


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
