"""`build`: from a task's name or a recipe's section to a Degradation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from degradations.bicubic import BicubicSection
from degradations.degradation import Degradation, DegradationSection
from degradations.realesrgan import PRESETS, RealESRGANSection
from degradations.sections import merged, parse

TASKS = ("realesrgan", "bicubic")
SCALES = (1, 2, 4, 8)


def build(section: str | Mapping[str, Any], scale: int = 4) -> Degradation:
    """The degradation of `section`: a task's name, or a mapping with `name` and whatever differs from its defaults.

    `scale` is the ratio of HQ to LQ size: 1, 2, 4 or 8. Raises ValueError for an unknown task, key or scale and for
    ranges and probabilities that cannot be, naming the field, the value and the remedy.
    """
    if scale not in SCALES:
        raise ValueError(f"scale is {scale!r}; valid scales are {', '.join(map(str, SCALES))}")
    return Degradation(parse_section(section), scale)


def parse_section(section: str | Mapping[str, Any]) -> DegradationSection:
    """`section` with its defaults filled in and checked."""
    values: dict[str, Any] = {"name": section} if isinstance(section, str) else dict(section)
    name = values.get("name")
    if name == "realesrgan":
        preset = values.get("preset", "training")
        if preset not in PRESETS:
            raise ValueError(f"degradation.preset is {preset!r}; valid presets are {', '.join(PRESETS)}")
        return parse(RealESRGANSection, merged(PRESETS[preset], values), "degradation")
    if name == "bicubic":
        return parse(BicubicSection, values, "degradation")
    raise ValueError(f"degradation.name is {name!r}; valid names are {', '.join(TASKS)}")
