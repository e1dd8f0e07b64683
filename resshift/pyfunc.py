"""A saved restorer as an MLflow pyfunc model: the loader module that its MLmodel file names. Needs no MLflow.

An image is one of: an encoded file (bytes, or base64 text where JSON carries it), or an array (nested lists in JSON).
What comes in as a file leaves as a PNG of its kind; what comes in as an array leaves as one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from resshift.image_files import decode, decode_mask, encode_png
from resshift.precision import make_repeatable
from resshift.restorer import Restorer
from resshift.tiling import TILES_AT_ONCE

IMAGE, MASK = "image", "mask"
_FORMS = "encoded image files (bytes or base64 text) or uint8 arrays (h, w, 3)"


class RestorerModel:
    """What MLflow wraps: `predict` on tables of images."""

    def __init__(self, restorer: Restorer) -> None:
        self.restorer = restorer

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Restore images.

        Args:
            model_input: a table (DataFrame, or mapping of columns) with the column `image` and, for inpainting
                models, `mask`: encoded files, or arrays, uint8 (or uint16) RGB (h, w, 3) and uint8 (h, w), a mask
                being 255 where the image is unknown (or bool, true there). Images of a table may differ in size.
            params: `seed` (default 0), the same for every image.

        Returns:
            A table with the column `image`, row by row a PNG file (bytes) or an array (h * scale, w * scale, 3), in
            the form the image came in.

        Raises:
            ValueError: the input is none of this; a row is named.
        """
        seed = int((params or {}).get("seed", 0))
        if not isinstance(model_input, pd.DataFrame | Mapping):
            kind = type(model_input).__name__
            raise ValueError(f"model_input is a {kind}; give a table with the column {IMAGE}: {_FORMS}")
        return self._restore_table(model_input, seed)

    def _restore_table(self, table: pd.DataFrame | Mapping[str, Any], seed: int) -> pd.DataFrame:
        columns = [name for name in (IMAGE, MASK) if name in table]
        if IMAGE not in columns:
            raise ValueError(f"model_input lacks the column {IMAGE}; give it with {_FORMS}")
        images = list(_cells(table[IMAGE]))
        masks = list(_cells(table[MASK])) if MASK in columns else [None] * len(images)
        if len(images) != len(masks):
            raise ValueError(f"there are {len(images)} images and {len(masks)} masks; give as many of both")
        restored = []
        for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
            try:
                restored.append(self._restore_cell(image, None if _is_missing(mask) else mask, seed))
            except ValueError as error:
                raise ValueError(f"row {row}: {error}") from error
        index = table.index if isinstance(table, pd.DataFrame) and len(table) == len(restored) else None
        return pd.DataFrame({IMAGE: restored}, index=index)

    def _restore_cell(self, image: Any, mask: Any, seed: int) -> bytes | np.ndarray:
        mask_pixels = None if mask is None else _mask_pixels(mask)
        data = _file_bytes(image)
        if data is None:
            return self.restorer(_pixels(image), seed, mask_pixels)
        try:
            loaded = decode(data)
        except ValueError as error:
            raise ValueError(f"the {IMAGE} {error}") from error
        return encode_png(self.restorer(loaded.rgb, seed, mask_pixels), like=loaded)


def _cells(column: Any) -> Iterable[Any]:
    """The cells of a column. MLflow may bring a list of texts as the only cell of a table."""
    for cell in column:
        if isinstance(cell, list) and cell and isinstance(cell[0], str | bytes):
            yield from cell
        else:
            yield cell


def _is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and np.isnan(cell))


def _file_bytes(cell: Any) -> bytes | None:
    """The bytes of an encoded file, or None if the cell is an array."""
    if isinstance(cell, str):
        try:
            return base64.b64decode("".join(cell.split()), validate=True)  # MLflow's own has line ends
        except binascii.Error as error:
            raise ValueError(f"text is taken for base64, and this is none ({error}); give {_FORMS}") from error
    return bytes(cell) if isinstance(cell, bytes | bytearray | memoryview) else None


def _pixels(cell: Any) -> np.ndarray:
    """uint8 or uint16 samples; nested lists, as JSON brings them, count as uint8."""
    if isinstance(cell, np.ndarray) and cell.dtype in (np.uint8, np.uint16):
        return cell
    try:
        samples = np.asarray(cell.tolist() if isinstance(cell, np.ndarray) else cell)
    except ValueError as error:
        raise ValueError(f"the rows of an array differ in length; give {_FORMS}") from error
    if samples.dtype.kind not in "iu" or samples.size == 0 or samples.min() < 0 or samples.max() > 255:
        raise ValueError(f"holds {samples.dtype} {samples.shape}; give {_FORMS}, samples being whole numbers 0 to 255")
    return samples.astype(np.uint8)


def _mask_pixels(cell: Any) -> np.ndarray:
    data = _file_bytes(cell)
    if data is None:
        return cell if isinstance(cell, np.ndarray) and cell.dtype == np.bool_ else _pixels(cell)
    try:
        return decode_mask(data)
    except ValueError as error:
        raise ValueError(f"the {MASK} {error}") from error


def _load_pyfunc(data_path: str) -> RestorerModel:
    """Entry point that MLflow calls with the folder of the saved restorer."""
    make_repeatable()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    restorer = Restorer.load(data_path, device).prepare()
    restorer.batch_size = TILES_AT_ONCE[device]
    return RestorerModel(restorer)
