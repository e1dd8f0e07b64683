"""A contact sheet of what a degradation does to a photo: draws with their parameters, and one of them step by step.

    python -m degradations.gallery PHOTO --recipe realesrgan --out gallery.html

`--recipe` takes a task's name, a shipped recipe's name, or a YAML file with a `degradation` section; for `paired`,
PHOTO is one of the HQ images. `--out` ends in .html (self-contained) or .png.
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

from degradations.arrays import to_uint8
from degradations.builder import TASKS, build
from degradations.degradation import Degradation
from degradations.draws import integer
from degradations.gallery_pages import write_html, write_png
from degradations.image_loading import load_rgb
from degradations.paired import PairedFolders, crop, name_of
from degradations.record import Pair, Record
from degradations.seeding import sample_generator
from degradations.words import describe, describe_record

Pixels = NDArray[np.uint8]
_SIDE = 256  # of what is shown, pixels


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
    values = _recipe(recipe)
    if "degradation" not in values:
        raise ValueError(f"{recipe} has no 'degradation' section; add one, e.g. degradation: {{name: realesrgan}}")
    return build(values["degradation"], scale=values.get("scale"))


def _recipe(name: str, *above: str) -> dict[str, Any]:
    """Scale and degradation of a recipe, those of the recipes that it extends beneath its own.

    Recipes are data that ships with the project; what stands in two of their sections needs no code of theirs.
    """
    path = Path(name)
    path = path if path.is_file() else Path(str(files("infra.recipes") / f"{name}.yaml"))
    if not path.is_file():
        raise ValueError(f"recipe is {name!r}; give a task ({', '.join(TASKS)}), a shipped recipe, or a YAML file")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML ({' '.join(str(error).split())}); correct it") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no mapping of sections; start it with 'name: ...'")
    if name in above:
        raise ValueError(f"recipe {name!r} extends itself; remove one 'extends'")
    beneath = _recipe(str(values["extends"]), name, *above) if "extends" in values else {}
    return _merged(beneath, {key: values[key] for key in ("scale", "degradation") if key in values})


def _merged(beneath: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """As recipes that extend others are: mappings key by key, tables of probabilities too; everything else replaced."""
    merged = dict(beneath)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def make_sheet(photo: Pixels, degrade: Degradation, count: int, seed: int, name: str = "") -> Sheet:
    """`count` draws of the middle of `photo`; of pairs that exist already, `count` crops of the pair called `name`."""
    title = f"{degrade.section.name} x{degrade.scale}"
    if isinstance(degrade, PairedFolders):
        return _paired_sheet(title, degrade(photo, seed=seed, key=name), count, seed)
    hq = _middle(photo, _SIDE, degrade.scale)
    pairs = [degrade(hq, seed=seed, variant=variant) for variant in range(count)]
    pictures = [Picture(hq, ("HQ", f"{hq.shape[1]}x{hq.shape[0]} pixels"))]
    pictures += [Picture(_shown(pair.lq, hq), _lines(pair)) for pair in pairs]
    return Sheet(title, tuple(pictures), tuple(_chain(hq, pairs[0])))


def _paired_sheet(title: str, pair: Pair, count: int, seed: int) -> Sheet:
    """HQ and LQ of the same crops, one beside the other."""
    scale = pair.record["scale"]
    size = min(*pair.hq.shape[:2], _SIDE) // scale * scale
    pictures: list[Picture] = []
    for variant in range(count):
        rng = sample_generator(seed, "gallery", variant)
        top, left = (integer(rng, (0, (side - size) // scale)) * scale for side in pair.hq.shape[:2])
        part = crop(pair, left, top, size)
        pictures.append(Picture(part.hq, ("HQ", f"{size}x{size} pixels at {left}, {top}")))
        pictures.append(Picture(_shown(part.lq, part.hq), ("LQ", *describe_record(part.record))))
    return Sheet(title, tuple(pictures), tuple(pictures[:2]))


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
    lines = describe_record(pair.record)
    if pair.mask is not None:
        lines.append(f"{100 * pair.mask.mean():.0f} % missing")
    return tuple(lines or ["unchanged"])


def _shown(image: Pixels, hq: Pixels) -> Pixels:
    """Enlarged to the size of the HQ, pixels kept visible."""
    return np.asarray(cv2.resize(image, (hq.shape[1], hq.shape[0]), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def _middle(photo: Pixels, size: int, multiple: int) -> Pixels:
    height, width = (min(side, size) // multiple * multiple for side in photo.shape[:2])
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return np.ascontiguousarray(photo[top : top + height, left : left + width])


def _name(photo: Path, degrade: Degradation) -> str:
    """What `photo` is called among the pairs of `degrade`; its bare name where it lies in no HQ folder."""
    path = Path(photo.name)
    if isinstance(degrade, PairedFolders) and degrade.section.hq_dir is not None:
        folder = Path(degrade.section.hq_dir).resolve()
        if photo.resolve().is_relative_to(folder):
            path = photo.resolve().relative_to(folder)
    return name_of(path.as_posix())


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
        degrade = degradation_of(recipe)
        sheet = make_sheet(load_rgb(photo), degrade, count, seed, _name(photo, degrade))
        writers[out.suffix](sheet.title, sheet.draws, sheet.chain, out)
    except OSError as error:
        typer.echo(f"error: {error.filename}: {error.strerror}; correct --out", err=True)
        raise typer.Exit(1) from None
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{out}: {count} draws of {sheet.title}")


if __name__ == "__main__":
    typer.run(main)
