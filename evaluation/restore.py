"""Restore images of any size and kind with a registered model or a bundle folder."""

import sys
from typing import Annotated

import typer

from evaluation.image_output import FORMATS
from evaluation.restoration import RestoreOptions, plan, restore
from infra.cli import EXIT_FAILED, DryRunOption, OutOption, run
from resshift.precision import PRECISIONS


def main(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images, folders, globs or s3:// URLs.")],
    model: Annotated[
        str, typer.Option(help="models:/name@champion, models:/name/3, or a bundle folder.", show_default=False)
    ],
    out: OutOption,
    mask: Annotated[
        str | None, typer.Option(help="Inpainting: image (or folder of them), white where to fill in.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler's noise.")] = 0,
    tile_size: Annotated[int, typer.Option(min=64, help="Side of a tile in output pixels.")] = 512,
    tile_overlap: Annotated[int, typer.Option(min=0, help="Overlap of tiles in output pixels.")] = 64,
    image_format: Annotated[str, typer.Option("--format", help=f"Of the results: {', '.join(FORMATS)}.")] = "png",
    precision: Annotated[str, typer.Option(help=f"Of the networks: {', '.join(PRECISIONS)} (the faster).")] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Tiles restored at once (default: 4 on a GPU).")] = None,
    suffix: Annotated[str, typer.Option(help="Added to the name of every result, such as _x4.")] = "",
    dry_run: DryRunOption = False,
) -> None:
    """Restore images into a folder. Results that exist are kept unless --overwrite, so the same command resumes."""
    options = RestoreOptions(seed, tile_size, tile_overlap, overwrite, image_format, suffix, precision, batch_size)
    if dry_run:
        jobs, missing = plan(inputs, out, mask, options)[:2]
        for job in jobs:
            print(f"{job.source} -> {job.target}")
        for line in missing:
            print(f"error: {line}", file=sys.stderr)
        if missing:
            raise typer.Exit(EXIT_FAILED)
        return
    outcome = restore(model, inputs, out, mask, options)
    for line in outcome.notes:
        print(f"note: {line}", file=sys.stderr)
    for line in outcome.failed:
        print(f"error: {line}", file=sys.stderr)
    kept = f", {outcome.skipped} skipped because their results exist (--overwrite)" if outcome.skipped else ""
    failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
    print(f"{outcome.restored} restored into {out}{failed}{kept}")
    if outcome.stopped:
        raise outcome.stopped
    if outcome.failed:
        raise typer.Exit(EXIT_FAILED)


def cli() -> None:
    """Entry point of the console script."""
    run(main)


if __name__ == "__main__":
    cli()
