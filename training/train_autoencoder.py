"""Train the VQGAN of a recipe on the HQ images of pair shards. The same command resumes."""

from typing import Annotated

import typer

from infra.cli import DryRunOption, OutOption, OverridesArgument, RecipeOption, run
from infra.recipe import load_recipe
from training.launch import Launcher, LauncherOption, LocalRankOption, WorkersOption, check_workers


def main(
    recipe: RecipeOption,
    data: Annotated[str, typer.Option(help="Folder or s3:// prefix of pair shards.", show_default=False)],
    out: OutOption,
    overrides: OverridesArgument = None,
    dry_run: DryRunOption = False,
    launcher: LauncherOption = Launcher.ENVIRONMENT,
    workers: WorkersOption = None,
    local_rank: LocalRankOption = None,
) -> None:
    """Train the VQGAN of a recipe on the HQ images of pair shards. The same command resumes.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 143 stopped by SIGTERM after saving a checkpoint (start it again).
    """
    check_workers(launcher, workers)
    from training.autoencoder_run import run_autoencoder_training  # late: --help and mistakes are answered at once
    from training.one_voice import one_voice

    if launcher is Launcher.RAY and not dry_run:
        from training.ray_launch import run_on_ray  # seconds of imports that no other way of starting needs

        summary = run_on_ray(run_autoencoder_training, load_recipe(recipe, overrides), data, out, workers)
    else:
        with one_voice():
            summary = run_autoencoder_training(load_recipe(recipe, overrides), data, out, dry_run)
    if summary:
        print(summary)


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
