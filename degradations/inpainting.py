"""Inpainting: irregular strokes, boxes, or missing margins (outpainting), with the ranges of the method.

Source: Suvorov et al. 2022, "Resolution-robust Large Mask Inpainting" (LaMa), as Yue et al., "ResShift", use it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from degradations.degradation import Drawn, DrawnSection
from degradations.draws import happens, integer, one_of, pick
from degradations.masks import Box, Shape, Stroke
from degradations.sections import FractionRange, PositiveCountRange, Probability, Section, sums_to_one

MaskKind = Literal["irregular", "box", "outpainting"]
Side = Literal["left", "top", "right", "bottom"]
SIDES: tuple[Side, ...] = ("left", "top", "right", "bottom")


class IrregularSection(Section):
    """Bent strokes of a thick brush."""

    stroke_count_range: PositiveCountRange = (1, 6)
    segment_count_range: PositiveCountRange = (1, 5)
    """Segments of one stroke."""
    angle_count: int = Field(default=4, ge=1)
    """Directions to choose from: 0.01, 1.01, 2.01, ... radians, mirrored for every second stroke."""
    length_range: PositiveCountRange = (10, 209)
    """Of a segment, pixels."""
    width_range: PositiveCountRange = (5, 104)
    """Of the brush, pixels."""


class BoxSection(Section):
    """Rectangles inside the image."""

    box_count_range: PositiveCountRange = (1, 4)
    margin: int = Field(default=10, ge=0)
    """Pixels kept along the image's border."""
    side_range: PositiveCountRange = (30, 150)
    """Pixels; cut to what fits."""


class OutpaintingSection(Section):
    """Missing margins."""

    side_prob: dict[Side, Probability] = Field(default={"left": 0.5, "top": 0.5, "right": 0.5, "bottom": 0.5})
    """Probability of each side, independently; if none is drawn, one is taken."""
    fraction_range: FractionRange = (0.04, 0.25)
    """Width of a margin as a fraction of the image."""


class InpaintingSection(DrawnSection):
    """`inpainting`: LQ is HQ with the masked pixels black; the pair's mask is 1 there."""

    name: Literal["inpainting"] = "inpainting"
    kind_prob: Annotated[dict[MaskKind, float], AfterValidator(sums_to_one)] = Field(
        default={"irregular": 1 / 3, "box": 1 / 3, "outpainting": 1 / 3}
    )
    irregular: IrregularSection = IrregularSection()
    box: BoxSection = BoxSection()
    outpainting: OutpaintingSection = OutpaintingSection()

    def draw(self, rng: np.random.Generator, height: int, width: int, scale: int) -> Drawn:
        kind = pick(rng, self.kind_prob)
        if kind == "irregular":
            shapes = draw_strokes(rng, self.irregular, height, width)
        elif kind == "box":
            shapes = draw_boxes(rng, self.box, height, width)
        else:
            shapes = draw_margins(rng, self.outpainting, height, width)
        return Drawn(mask=shapes)


def draw_strokes(rng: np.random.Generator, section: IrregularSection, height: int, width: int) -> tuple[Shape, ...]:
    """Strokes that start anywhere; each segment goes on from the last, cut at the border."""
    strokes = []
    for index in range(integer(rng, section.stroke_count_range)):
        points = [(integer(rng, (0, width - 1)), integer(rng, (0, height - 1)))]
        widths = []
        for _ in range(integer(rng, section.segment_count_range)):
            angle = 0.01 + integer(rng, (0, section.angle_count - 1))
            if index % 2 == 0:
                angle = 2 * math.pi - angle
            length = integer(rng, section.length_range)
            widths.append(integer(rng, section.width_range))
            x = int(points[-1][0] + length * math.sin(angle))
            y = int(points[-1][1] + length * math.cos(angle))
            points.append((min(max(x, 0), width), min(max(y, 0), height)))
        strokes.append(Stroke(points=tuple(points), widths=tuple(widths)))
    return tuple(strokes)


def draw_boxes(rng: np.random.Generator, section: BoxSection, height: int, width: int) -> tuple[Shape, ...]:
    """Boxes anywhere inside the margin."""
    fitting = min(height, width) - 2 * section.margin
    low, high = (min(side, max(fitting, 1)) for side in section.side_range)
    margin = min(section.margin, (min(height, width) - high) // 2)  # tiny images have no room for the margin
    boxes = []
    for _ in range(integer(rng, section.box_count_range)):
        box_width, box_height = integer(rng, (low, high)), integer(rng, (low, high))
        left = integer(rng, (margin, width - margin - box_width))
        top = integer(rng, (margin, height - margin - box_height))
        boxes.append(Box(left=left, top=top, width=box_width, height=box_height))
    return tuple(boxes)


def draw_margins(rng: np.random.Generator, section: OutpaintingSection, height: int, width: int) -> tuple[Shape, ...]:
    """Margins along the drawn sides, at least one."""
    sides = [side for side in SIDES if happens(rng, section.side_prob.get(side, 0.0))]
    possible = [side for side in SIDES if section.side_prob.get(side, 0.0) > 0]
    if not sides:
        sides = [one_of(rng, possible or SIDES)]
    boxes = []
    for side in sides:
        size = width if side in ("left", "right") else height
        low, high = (int(fraction * size) for fraction in section.fraction_range)
        depth = max(1, integer(rng, (low, max(low, high - 1))))
        if side in ("left", "right"):
            left = 0 if side == "left" else width - depth
            boxes.append(Box(left=left, top=0, width=depth, height=height))
        else:
            top = 0 if side == "top" else height - depth
            boxes.append(Box(left=0, top=top, width=width, height=depth))
    return tuple(boxes)
