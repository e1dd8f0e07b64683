"""A picture for the tracker: samples in rows, what was made of them in columns."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

GAP = 4
HEADER = 18
BACKGROUND = (24, 24, 24)
INK = (230, 230, 230)


def image_grid(titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Arrange uint8 RGB images (H, W, 3), one row per sample and one column per title: uint8 (H', W', 3).

    Every image is shown at the size of its row's largest; pixels of smaller ones stay visible as squares. Without rows
    only the strip of titles is left: a process may have no sample of its own.
    """
    cells = [[_enlarged(image, max(cell.shape[0] for cell in row)) for image in row] for row in rows]
    width = max((cell.shape[1] for row in cells for cell in row), default=0)
    heights = [max(cell.shape[0] for cell in row) for row in cells]
    size = (GAP + len(titles) * (width + GAP), HEADER + sum(height + GAP for height in heights))
    grid = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(grid)
    for column, title in enumerate(titles):
        pen.text((GAP + column * (width + GAP), 3), title, fill=INK)
    top = HEADER
    for row, height in zip(cells, heights, strict=True):
        for column, cell in enumerate(row):
            grid.paste(Image.fromarray(cell), (GAP + column * (width + GAP), top))
        top += height + GAP
    return np.asarray(grid)


def _enlarged(image: np.ndarray, height: int) -> np.ndarray:
    if image.shape[0] == height:
        return np.ascontiguousarray(image)
    width = round(image.shape[1] * height / image.shape[0])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
