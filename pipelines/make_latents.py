"""Encode pair shards into latent shards with the recipe's autoencoder. The same command resumes."""

from typing import Annotated

import typer

from infra.cli import (
    CpuPriceOption,
    DryRunOption,
    GpuPriceOption,
    OutOption,
    OverridesArgument,
    RecipeOption,
    WorkersOption,
    run,
)
from infra.recipe import load_recipe


def main(
    recipe: RecipeOption,
    pairs: Annotated[str, typer.Option(help="Folder or s3:// prefix of pair shards.", show_default=False)],
    out: OutOption,
    overrides: OverridesArgument = None,
    workers: WorkersOption = None,
    dry_run: DryRunOption = False,
    price_per_cpu_hour: CpuPriceOption = None,
    price_per_gpu_hour: GpuPriceOption = None,
) -> None:
    """Encode pair shards into latent shards with the recipe's autoencoder. The same command resumes."""
    loaded = load_recipe(recipe, overrides)
    from pipelines.estimate import Prices  # late: --help and a wrong recipe are answered at once
    from pipelines.latents import make_latents

    print(make_latents(loaded, pairs, out, workers, dry_run, Prices(price_per_cpu_hour, price_per_gpu_hour)))


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
