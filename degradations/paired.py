"""Pairs that exist already: HQ and LQ images that match by name.

Two layers. `match_names`, `pair_of` and `crop` are functions of names and arrays, for whoever reads the images himself,
from any storage. Over them, `build({"name": "paired", "lq_dir": ..., "hq_dir": ...}, scale=4)` works on local folders:
`degrade(hq, seed, key=name)` looks the LQ up instead of making it, and `degrade.pair(name)` loads both. Without
`hq_dir` the HQ is always handed in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from degradations.arrays import check_rgb
from degradations.degradation import Degradation, TaskSection, check_hq
from degradations.image_loading import load_rgb, size_of
from degradations.record import Pair, Record, StoredLQ
from degradations.sections import parse

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


_MARKER = re.compile(r"(?<=[^/])(?:[-_](?:hr|hq|gt|lr|lq)\d*|[-_]?x\d)$", re.IGNORECASE)


class PairedSection(TaskSection):
    """`paired`: the LQ images lie in a folder; sub-folders count. An HQ and its LQ have the same path in their folders,
    but for the extension; or, where that fits none of them, but for markers as of `unmarked`."""

    name: Literal["paired"] = "paired"
    lq_dir: str
    hq_dir: str | None = None
    """Null where the HQ images come from elsewhere, such as the source of a pipeline."""


def name_of(path: str) -> str:
    """What an HQ and its LQ have in common: the relative posix `path` without its extension."""
    return PurePosixPath(path).with_suffix("").as_posix()


def unmarked(name: str) -> str:
    """`name` without a final `_HR`, `_HQ`, `_GT`, `_LR`, `_LR4`, `_LQ` or `x4`: published sets tell HQ and LQ by it."""
    return _MARKER.sub("", name)


def match_names(hq: Iterable[str], lq: Iterable[str]) -> list[tuple[str, str]]:
    """Matches relative paths of HQ and LQ images by `name_of`: (hq path, lq path), sorted by name.

    Where not one name is on both sides, those without markers are matched (`unmarked`).

    Raises ValueError if a name occurs twice on one side or is missing on the other.
    """
    hq_paths, lq_paths = _by_name(hq, "HQ"), _by_name(lq, "LQ")
    if hq_paths.keys().isdisjoint(lq_paths):
        bare = [_by_name(paths.values(), side, bare=True) for paths, side in ((hq_paths, "HQ"), (lq_paths, "LQ"))]
        if not bare[0].keys().isdisjoint(bare[1]):
            hq_paths, lq_paths = bare
    for present, absent, missing in ((hq_paths, lq_paths, "LQ"), (lq_paths, hq_paths, "HQ")):
        lonely = sorted(set(present) - set(absent))
        if lonely:
            shown = ", ".join(lonely[:3]) + (", ..." if len(lonely) > 3 else "")
            count = "1 image has" if len(lonely) == 1 else f"{len(lonely)} images have"
            raise ValueError(f"{count} no {missing} of the same name: {shown}; add or remove them")
    return [(hq_paths[name], lq_paths[name]) for name in sorted(hq_paths)]


def pair_of(
    hq: NDArray[np.uint8],
    lq: NDArray[np.uint8],
    scale: int,
    *,
    lq_name: str,
    seed: int = 0,
    key: str = "",
    variant: int = 0,
) -> Pair:
    """The pair of two images, uint8 (H, W, 3) and (H/scale, W/scale, 3), whose record names the LQ.

    Raises ValueError if one of them is not RGB uint8 or the sizes do not fit the scale.
    """
    hq = check_hq(hq, scale)
    lq = check_rgb(lq, "lq")
    check_sizes(hq.shape[:2], lq.shape[:2], scale, lq_name)
    record = _record(hq.shape[0], hq.shape[1], scale, lq_name, seed, key, variant)
    return Pair(hq=hq, lq=lq, record=record.to_json())


def crop(pair: Pair, left: int, top: int, size: int, *, mirrored: bool = False) -> Pair:
    """The same square of HQ and LQ of a pair that exists already, its record telling where; left and right exchanged
    if `mirrored`. `left`, `top`, `size` in HQ pixels, multiples of the scale.

    Raises ValueError for a square that does not fit and for a pair that was degraded: there, crop the HQ beforehand.
    """
    record = parse(Record, pair.record, "record")
    if record.stored is None:
        raise ValueError(
            f"the LQ of this {record.degradation!r} pair was made from its HQ; crop the HQ, then degrade it"
        )
    scale = record.scale
    if left % scale or top % scale or size % scale:
        raise ValueError(f"the crop {left}, {top}, {size} is no multiple of the scale {scale}; round it to one")
    height, width = pair.hq.shape[:2]
    if size < 1 or left < 0 or top < 0 or left + size > width or top + size > height:
        raise ValueError(f"the crop {left}, {top}, {size} leaves the image of {width}x{height} pixels; move it inside")
    before = record.stored
    where = {
        "left": before.left + (width - left - size if before.mirrored else left),
        "top": before.top + top,
        "mirrored": before.mirrored != mirrored,
    }
    stored = before.model_copy(update=where)
    changed = record.model_copy(update={"height": size, "width": size, "stored": stored})
    return Pair(
        hq=_cut(pair.hq, left, top, size, size, mirrored),
        lq=_cut(pair.lq, left // scale, top // scale, size // scale, size // scale, mirrored),
        record=changed.to_json(),
    )


class PairedFolders(Degradation):
    """A Degradation that looks its LQ images up in local folders. `names` are the pairs, sorted."""

    section: PairedSection

    def __init__(self, section: PairedSection, scale: int) -> None:
        """Checks names and, where the HQ folder is known, sizes. Raises ValueError that names what does not match."""
        super().__init__(section, scale)
        lq_paths = _images_of(section.lq_dir, "lq_dir")
        self._lq, self._hq = _by_name(lq_paths, "LQ"), dict[str, str]()
        bare = Counter(unmarked(name) for name in self._lq)
        self._unmarked = {unmarked(name): lq for name, lq in self._lq.items() if bare[unmarked(name)] == 1}
        if section.hq_dir is not None:
            pairs = match_names(_images_of(section.hq_dir, "hq_dir"), lq_paths)
            for hq, lq in pairs:
                sizes = (size_of(Path(section.hq_dir) / hq), size_of(Path(section.lq_dir) / lq))
                check_sizes(*sizes, scale, lq)
            self._lq = {name_of(hq): lq for hq, lq in pairs}
            self._hq = {name_of(hq): hq for hq, _ in pairs}
            self._unmarked = {}  # names are known now
        self.names: list[str] = sorted(self._lq)

    def draw(self, height: int, width: int, seed: int, *, key: str = "", variant: int = 0) -> Record:
        """The record that names the LQ of `key`. Raises ValueError if there is no such pair."""
        lq = self._lq.get(key) or self._unmarked.get(unmarked(key))
        if lq is None:
            raise ValueError(f"key is {key!r}; give the name of a pair, such as {self.names[0]!r}")
        return _record(height, width, self.scale, lq, seed, key, variant)

    def pair(self, name: str) -> Pair:
        """Loads the pair `name`, whole. Raises ValueError if there is none, or no `hq_dir`."""
        if self.section.hq_dir is None:
            raise ValueError("degradation.hq_dir is not given; add it, or hand the HQ in: degrade(hq, seed, key=name)")
        if name not in self._hq:
            raise ValueError(f"name is {name!r}; give the name of a pair, such as {self.names[0]!r}")
        return self(load_rgb(Path(self.section.hq_dir) / self._hq[name]), seed=0, key=name)

    def _make(self, hq: NDArray[np.uint8], record: Record) -> Pair:
        stored, scale = record.stored, self.scale
        if stored is None:
            raise ValueError("record.stored is missing; a record of 'paired' names its LQ there")
        lq = load_rgb(Path(self.section.lq_dir) / stored.name)
        if lq.shape[:2] != (stored.height, stored.width):
            raise ValueError(
                f"{stored.name} is {lq.shape[1]}x{lq.shape[0]} pixels, not {stored.width}x{stored.height}, which its "
                f"HQ at scale {scale} asks for; give the HQ and the LQ that belong together"
            )
        left, top = stored.left // scale, stored.top // scale
        lq = _cut(lq, left, top, record.width // scale, record.height // scale, stored.mirrored)
        return Pair(hq=hq, lq=lq, record=record.to_json())


def check_sizes(hq: tuple[int, int], lq: tuple[int, int], scale: int, name: str) -> None:
    """Raises ValueError unless the (height, width) of an HQ is `scale` times that of its LQ, called `name`."""
    if hq != (lq[0] * scale, lq[1] * scale):
        raise ValueError(
            f"{name}: HQ is {hq[1]}x{hq[0]} pixels, LQ {lq[1]}x{lq[0]}; at scale {scale} the LQ must be "
            f"{hq[1] / scale:g}x{hq[0] / scale:g}: crop one of them, or give the scale they have"
        )


def _record(height: int, width: int, scale: int, lq_name: str, seed: int, key: str, variant: int) -> Record:
    return Record(
        degradation="paired",
        scale=scale,
        seed=seed,
        key=key,
        variant=variant,
        height=height,
        width=width,
        steps=(),
        stored=StoredLQ(name=lq_name, height=height // scale, width=width // scale),
    )


def _cut(image: NDArray[np.uint8], left: int, top: int, width: int, height: int, mirrored: bool) -> NDArray[np.uint8]:
    part = image[top : top + height, left : left + width]
    return np.ascontiguousarray(part[:, ::-1] if mirrored else part)


def _by_name(paths: Iterable[str], side: str, *, bare: bool = False) -> dict[str, str]:
    named: dict[str, str] = {}
    for path in paths:
        name = unmarked(name_of(path)) if bare else name_of(path)
        if name in named:
            raise ValueError(f"the {side} images {named[name]!r} and {path!r} share a name; keep one of them")
        named[name] = path
    return named


def _images_of(folder: str, field: str) -> list[str]:
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(
            f"degradation.{field} is {folder!r}, which is no folder; give the folder that holds the images"
        )
    paths = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS]
    if not paths:
        raise ValueError(f"degradation.{field} {folder!r} holds no images; it needs some ({', '.join(EXTENSIONS)})")
    return paths
