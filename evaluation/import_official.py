"""Register an official ResShift model: its YAML file and the checkpoints of denoiser and autoencoder."""

import json
from typing import Annotated

import typer

from infra.cli import DryRunOption, run


def main(
    config: Annotated[str, typer.Option(help="The YAML file of the official configs/ folder.", show_default=False)],
    denoiser: Annotated[str, typer.Option(help="The denoiser's checkpoint (.pth).", show_default=False)],
    autoencoder: Annotated[str, typer.Option(help="The autoencoder's checkpoint (.pth).", show_default=False)],
    model: Annotated[str, typer.Option(help="Name to register it under.", show_default=False)],
    task: Annotated[str | None, typer.Option(help="What it is for, where the YAML file does not tell.")] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Register an official ResShift model as a version that evaluates, promotes and restores like a trained one.

    The licence of the official weights stays theirs.
    """
    from evaluation.official_import import import_official  # late: --help is answered at once

    described = import_official(config, denoiser, autoencoder, model, task, dry_run)
    if dry_run:
        print(json.dumps(described, indent=2))
        return
    recipe = described["recipe"]
    print(f"registered: {described['uri']} ({recipe['task']} x{recipe['scale']})")


def cli() -> None:
    """Entry point of the console script."""
    run(main)


if __name__ == "__main__":
    cli()
