"""Image files on a local disk as uint8 RGB, for those who use degradations without the pipelines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

_TURNED = range(5, 9)  # values of the EXIF orientation with which rows are columns
_ORIENTATION = 0x0112
_ERRORS = (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError)


def load_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 (H, W, 3), upright as EXIF says. Raises ValueError if it is no readable image."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image) if image.format != "TIFF" else image  # those Pillow has turned
            if upright.mode.startswith("I"):  # 16 bits of gray, of which Pillow would cut off all above 255
                gray = np.rint(np.asarray(upright, dtype=np.float64).clip(0, 65535) / 257).astype(np.uint8)
                return np.repeat(gray[..., None], 3, axis=2)
            return np.asarray(upright.convert("RGB"))
    except _ERRORS as error:
        raise ValueError(f"{path} is no readable image ({error}); replace or remove it") from None


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of what `load_rgb` returns, from the file's header alone. Raises ValueError."""
    try:
        with Image.open(path) as image:
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except _ERRORS as error:
        raise ValueError(f"{path} is no readable image ({error}); replace or remove it") from None
