"""Pairs that exist already: an HQ and an LQ folder whose images match by name.

`build({"name": "paired", "hq_dir": ..., "lq_dir": ...}, scale=4)` checks the folders once: every HQ has its LQ and the
other way round, and the sizes fit the scale. Then `degrade(hq, seed, key=name)` looks the LQ up instead of making it,
and `degrade.pair(name)` loads both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from degradations.degradation import Degradation, DegradationSection, Drawn, Pair, Record
from degradations.steps import Stored

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class PairedSection(DegradationSection):
    """`paired`: two folders; sub-folders count, and a name is the path in the folder without its extension."""

    name: Literal["paired"] = "paired"
    hq_dir: str
    lq_dir: str

    def draw(self, rng: np.random.Generator, height: int, width: int, scale: int) -> Drawn:
        raise NotImplementedError("which LQ it is depends on the key: see PairedFolders.draw")


class PairedFolders(Degradation):
    """A Degradation that looks its LQ images up. `names` are the pairs, sorted."""

    def __init__(self, section: PairedSection, scale: int) -> None:
        super().__init__(section, scale)
        self._hq = _images_of(section.hq_dir, "hq_dir")
        self._lq = _images_of(section.lq_dir, "lq_dir")
        _check_names(self._hq, self._lq)
        self.names: Sequence[str] = sorted(self._hq)
        for name in self.names:
            _check_sizes(self._hq[name], self._lq[name], scale)

    def draw(self, height: int, width: int, seed: int, *, key: str = "", variant: int = 0) -> Record:
        """The record that names the LQ file of `key`. Raises ValueError if there is no such pair."""
        if key not in self._lq:
            raise ValueError(f"key is {key!r}; give the name of a pair, such as {self.names[0]!r}")
        return Record.of(self, seed, key, variant, height, width, Drawn(steps=(Stored(path=str(self._lq[key])),)))

    def pair(self, name: str) -> Pair:
        """Loads the pair `name`."""
        if name not in self._hq:
            raise ValueError(f"name is {name!r}; give the name of a pair, such as {self.names[0]!r}")
        return self(_load(self._hq[name]), seed=0, key=name)


def crop(pair: Pair, left: int, top: int, size: int) -> Pair:
    """The same square of a pair's HQ, LQ and mask; `left`, `top`, `size` in HQ pixels, multiples of the scale."""
    scale = pair.record["scale"]
    if left % scale or top % scale or size % scale:
        raise ValueError(f"the crop {left}, {top}, {size} is no multiple of the scale {scale}; round it to one")
    height, width = pair.hq.shape[:2]
    if left < 0 or top < 0 or left + size > width or top + size > height:
        raise ValueError(f"the crop {left}, {top}, {size} leaves the image of {width}x{height} pixels; move it inside")
    hq = pair.hq[top : top + size, left : left + size]
    lq = pair.lq[top // scale : (top + size) // scale, left // scale : (left + size) // scale]
    mask = None if pair.mask is None else pair.mask[top : top + size, left : left + size]
    record = {**pair.record, "crop": {"left": left, "top": top, "size": size}}
    return Pair(hq=hq, lq=lq, mask=mask, record=record)


def _images_of(folder: str, field: str) -> dict[str, Path]:
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(
            f"degradation.{field} is {folder!r}, which is no folder; give the folder that holds the images"
        )
    paths = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in EXTENSIONS]
    if not paths:
        raise ValueError(f"degradation.{field} {folder!r} holds no images ({', '.join(EXTENSIONS)})")
    images: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in images:
            raise ValueError(
                f"degradation.{field} holds {images[name].name!r} and {path.name!r}; keep one of each name"
            )
        images[name] = path
    return images


def _check_names(hq: dict[str, Path], lq: dict[str, Path]) -> None:
    for present, absent, missing in ((hq, lq, "LQ"), (lq, hq, "HQ")):
        lonely = sorted(set(present) - set(absent))
        if lonely:
            shown = ", ".join(lonely[:3]) + (", ..." if len(lonely) > 3 else "")
            raise ValueError(f"{len(lonely)} images have no {missing} of the same name: {shown}; add or remove them")


def _check_sizes(hq: Path, lq: Path, scale: int) -> None:
    hq_size, lq_size = _size(hq), _size(lq)
    if hq_size != (lq_size[0] * scale, lq_size[1] * scale):
        raise ValueError(
            f"{hq.name}: HQ is {hq_size[0]}x{hq_size[1]} pixels, LQ {lq_size[0]}x{lq_size[1]}; at scale {scale} the LQ "
            f"must be {hq_size[0] / scale:g}x{hq_size[1] / scale:g}: crop one of them, or give the scale they have"
        )


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is no readable image ({error}); replace or remove it") from None


def _load(path: Path) -> NDArray[np.uint8]:
    return Stored(path=str(path)).load()
