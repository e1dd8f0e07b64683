"""Inpainting masks: shapes with explicit coordinates, and drawing them.

A mask is uint8 (H, W), 1 where pixels are missing. Coordinates are pixels, x to the right, y down.
"""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from degradations.sections import Section


class Stroke(Section):
    """A bent brush stroke: n points, and the brush width of each of the n - 1 segments between them."""

    shape: Literal["stroke"] = "stroke"
    points: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]

    def paint(self, mask: NDArray[np.uint8]) -> None:
        for start, end, width in zip(self.points[:-1], self.points[1:], self.widths, strict=True):
            cv2.line(mask, start, end, 1, width)


class Box(Section):
    """A rectangle; the margins of an outpainting mask are rectangles, too."""

    shape: Literal["box"] = "box"
    left: int
    top: int
    width: int
    height: int

    def paint(self, mask: NDArray[np.uint8]) -> None:
        mask[max(self.top, 0) : self.top + self.height, max(self.left, 0) : self.left + self.width] = 1


Shape = Annotated[Stroke | Box, Field(discriminator="shape")]


def paint_mask(height: int, width: int, shapes: tuple[Shape, ...]) -> NDArray[np.uint8]:
    """The mask (`height`, `width`) with all `shapes` missing."""
    mask = np.zeros((height, width), dtype=np.uint8)
    for shape in shapes:
        shape.paint(mask)
    return mask


def blacked_out(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`image` (H, W, 3) with the missing pixels black."""
    return image * (1 - mask)[..., None]
