"""A contact sheet of what a degradation does to a photo: draws with their parameters, and one of them step by step.

    python -m degradations.gallery PHOTO --recipe realesrgan --out gallery.html

`--recipe` takes a task's name, a shipped recipe's name, or a YAML file with a `degradation` section. `--out` ends in
.html (self-contained) or .png.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
import yaml
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from degradations.arrays import to_uint8
from degradations.builder import TASKS, build
from degradations.degradation import Degradation
from degradations.gallery_pages import write_html, write_png
from degradations.record import Pair, Record
from degradations.words import describe

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """An image and what to write under it."""

    image: Pixels
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """What a gallery shows."""

    title: str
    draws: tuple[Picture, ...]
    """The HQ, then one picture per draw."""
    chain: tuple[Picture, ...]
    """The first draw, step by step."""


def degradation_of(recipe: str) -> Degradation:
    """The degradation of a task's name, a recipe file or a shipped recipe; ValueError if there is none."""
    if recipe in TASKS:
        return build(recipe)
    path = Path(recipe)
    # Recipes are data that ships with the project; reading the file needs no code of theirs.
    shipped = Path(str(files("infra.recipes") / f"{recipe}.yaml"))
    path = path if path.is_file() else shipped
    if not path.is_file():
        raise ValueError(f"recipe is {recipe!r}; give a task ({', '.join(TASKS)}), a shipped recipe, or a YAML file")
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, Mapping) or "degradation" not in values:
        raise ValueError(f"{path} has no 'degradation' section; add one, e.g. degradation: {{name: realesrgan}}")
    return build(values["degradation"], scale=values.get("scale"))


def make_sheet(photo: Pixels, degrade: Degradation, count: int, seed: int) -> Sheet:
    """`count` draws of the middle of `photo`."""
    hq = _middle(photo, 256, degrade.scale)
    pairs = [degrade(hq, seed=seed, variant=variant) for variant in range(count)]
    pictures = [Picture(hq, ("HQ", f"{hq.shape[1]}x{hq.shape[0]} pixels"))]
    pictures += [Picture(_shown(pair.lq, hq), _lines(pair)) for pair in pairs]
    title = f"{degrade.section.name} x{degrade.scale}"
    return Sheet(title, tuple(pictures), tuple(_chain(hq, pairs[0])))


def _chain(hq: Pixels, pair: Pair) -> list[Picture]:
    image: NDArray = hq
    pictures = [Picture(hq, ("HQ",))]
    record = Record.model_validate(pair.record)
    for step in record.steps:
        image = step.apply(image)
        pictures.append(
            Picture(_shown(to_uint8(image), hq), (describe(step), f"{image.shape[1]}x{image.shape[0]} pixels"))
        )
    if pair.mask is not None:
        pictures.append(Picture(_shown(pair.lq, hq), ("LQ, missing pixels black",)))
    return pictures


def _lines(pair: Pair) -> tuple[str, ...]:
    record = Record.model_validate(pair.record)
    lines = [describe(step) for step in record.steps]
    if pair.mask is not None and record.mask is not None:
        kinds = [shape.shape for shape in record.mask]
        lines += [f"{len(kinds)} {kinds[0] if kinds else 'shape'}(s)", f"{100 * pair.mask.mean():.0f} % missing"]
    return tuple(lines)


def _shown(image: Pixels, hq: Pixels) -> Pixels:
    """Enlarged to the size of the HQ, pixels kept visible."""
    return np.asarray(cv2.resize(image, (hq.shape[1], hq.shape[0]), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def _middle(photo: Pixels, size: int, multiple: int) -> Pixels:
    height, width = (min(side, size) // multiple * multiple for side in photo.shape[:2])
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return np.ascontiguousarray(photo[top : top + height, left : left + width])


def _load(path: Path) -> Pixels:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is no readable image ({error}); give a photo") from None


def main(
    photo: Annotated[Path, typer.Argument(help="A photo.")],
    recipe: Annotated[str, typer.Option(help="A task, a shipped recipe, or a YAML file.")] = "realesrgan",
    out: Annotated[Path, typer.Option(help="gallery.html or gallery.png")] = Path("gallery.html"),
    count: Annotated[int, typer.Option(min=1, help="How many draws.")] = 11,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Shows what a degradation does to a photo."""
    writers: dict[str, Any] = {".html": write_html, ".png": write_png}
    try:
        if out.suffix not in writers:
            raise ValueError(f"--out is {str(out)!r}; it must end in .html or .png")
        sheet = make_sheet(_load(photo), degradation_of(recipe), count, seed)
    except ValueError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    writers[out.suffix](sheet.title, sheet.draws, sheet.chain, out)
    typer.echo(f"{out}: {count} draws of {sheet.title}")


if __name__ == "__main__":
    typer.run(main)
