"""Restored rows become a file of the format asked for. TIFF, as PNG (resshift.image_files), is written as they come."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from resshift.image_files import LoadedImage, eight_bits, rows_like

FORMATS = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg", "webp": ".webp"}
MAX_SIDE = {"jpeg": 65500, "webp": 16383}  # pixels
TILE = 256  # side of the squares in which a TIFF is stored
JPEG_QUALITY = 95
CLASSIC_TIFF_BYTES = 2**32 - 2**28  # what a TIFF can hold, less its tables and what deflating may add
_EXTRA_SAMPLES = {2: ("unassalpha",), 4: ("unassalpha",)}


def write_image(path: Path, rows: Iterable[np.ndarray], size: tuple[int, int], like: LoadedImage, kind: str) -> None:
    """Write RGB rows (n, W, 3), which come from top to bottom, as an image of `size` (H, W) of the same kind as `like`.

    `kind`: a key of FORMATS but png. JPEG and WebP hold 8 bits, and JPEG no alpha; see `losses`. Raises ValueError,
    before it asks for a row, if the format cannot hold an image of that size.
    """
    if max(size) > (limit := MAX_SIDE.get(kind, max(size))):
        raise ValueError(
            f"{size[1]}x{size[0]} pixels do not go into a {kind} file, whose sides end at {limit}; use --format png"
        )
    if kind == "tiff":
        if like.channels == 2 and like.rgb.dtype == np.uint16:
            like = replace(like, is_gray=False)  # hardly any reader knows two channels of 16 bits
        _write_tiff(path, rows_like(rows, like, size[1]), size, like)
        return
    image = Image.fromarray(_pillow_array(eight_bits(np.concatenate(list(rows_like(rows, like, size[1]))))))
    if kind == "jpeg":
        image = image.convert("L" if like.is_gray else "RGB")
        image.save(path, "JPEG", quality=JPEG_QUALITY, subsampling=0, icc_profile=like.icc_profile)
    else:
        image.save(path, "WEBP", lossless=True, exact=True, icc_profile=None if like.is_gray else like.icc_profile)


def losses(like: LoadedImage, kind: str) -> tuple[str, ...]:
    """What the format cannot hold, in words for the user."""
    lost = []
    if kind in ("jpeg", "webp") and like.rgb.dtype != np.uint8:
        lost.append(f"16 bits are reduced to 8, all that {kind} holds")
    if kind == "jpeg" and like.alpha is not None:
        lost.append("the alpha channel is left out, jpeg has none")
    if kind == "webp" and like.is_gray and like.icc_profile:
        lost.append("the colour profile is left out, it is of gray and webp holds RGB")
    return tuple(lost)


def _write_tiff(path: Path, rows: Iterable[np.ndarray], size: tuple[int, int], like: LoadedImage) -> None:
    height, width = size
    channels = like.channels
    tifffile.imwrite(
        path,
        _tiles(rows),
        shape=(height, width) if channels == 1 else (height, width, channels),
        dtype=like.rgb.dtype,
        photometric="minisblack" if like.is_gray else "rgb",
        planarconfig=None if channels == 1 else "contig",
        extrasamples=_EXTRA_SAMPLES.get(channels),
        tile=(TILE, TILE),
        bigtiff=height * width * channels * like.rgb.dtype.itemsize >= CLASSIC_TIFF_BYTES,
        compression="zlib",
        predictor=True,
        iccprofile=like.icc_profile,
        metadata=None,
    )


def _tiles(rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The rows cut anew, into squares in raster order; TIFF wants those at the edges completed."""
    waiting: list[np.ndarray] = []
    for part in rows:
        waiting.append(part)
        while sum(map(len, waiting)) >= TILE:
            joined = np.concatenate(waiting)
            yield from _row_of_tiles(joined[:TILE])
            waiting = [joined[TILE:]]
    if any(map(len, waiting)):
        yield from _row_of_tiles(np.concatenate(waiting))


def _row_of_tiles(rows: np.ndarray) -> Iterator[np.ndarray]:
    height, width = rows.shape[:2]
    full = np.pad(rows, ((0, TILE - height), (0, -width % TILE), (0, 0)))
    for left in range(0, width, TILE):
        yield _pillow_array(full[:, left : left + TILE])


def _pillow_array(samples: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 1 else samples)
