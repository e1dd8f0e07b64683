"""`build`: from a task's name or a recipe's section to a Degradation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from degradations.bicubic import BicubicSection
from degradations.bsrgan import BsrganSection
from degradations.deblurring import DeblurringSection
from degradations.degradation import Degradation, DrawnDegradation, DrawnSection
from degradations.face import FaceSection
from degradations.inpainting import InpaintingSection
from degradations.paired import PairedFolders, PairedSection
from degradations.realesrgan import PRESETS, RealESRGANSection
from degradations.sections import merged, parse

SCALES = (1, 2, 4, 8)
DRAWN_TASKS: dict[str, type[DrawnSection]] = {
    "bsrgan": BsrganSection,
    "bicubic": BicubicSection,
    "face": FaceSection,
    "inpainting": InpaintingSection,
    "deblurring": DeblurringSection,
}
SAME_SIZE_TASKS = ("face", "inpainting", "deblurring")
TASKS = ("realesrgan", *DRAWN_TASKS, "paired")


def build(section: str | Mapping[str, Any], scale: int | None = None) -> Degradation:
    """The degradation of `section`: a task's name, or a mapping with `name` and whatever differs from its defaults.

    `scale` is the ratio of HQ to LQ size: 1, 2, 4 or 8; 1 for face, inpainting and deblurring, where
    LQ and HQ have one size.
    Without it: 1 for those, 4 for super-resolution. Raises ValueError for an unknown task, key or scale and for
    ranges and probabilities that cannot be, naming the field, the value and the remedy.
    """
    parsed = parse_section(section)
    same_size = parsed.name in SAME_SIZE_TASKS
    if scale is None:
        scale = 1 if same_size else 4
    if scale not in SCALES:
        raise ValueError(f"scale is {scale!r}; valid scales are {', '.join(map(str, SCALES))}")
    if same_size and scale != 1:
        raise ValueError(f"scale is {scale}; the LQ of {parsed.name!r} is as large as its HQ, so scale must be 1")
    if isinstance(parsed, PairedSection):
        return PairedFolders(parsed, scale)
    return DrawnDegradation(parsed, scale)


def parse_section(section: str | Mapping[str, Any]) -> DrawnSection | PairedSection:
    """`section` with its defaults filled in and checked; no folder is looked at. Raises ValueError as `build` does."""
    if not isinstance(section, str | Mapping):
        raise ValueError(f"degradation is {section!r}; give a name ({', '.join(TASKS)}), or a mapping with it")
    values: dict[str, Any] = {"name": section} if isinstance(section, str) else dict(section)
    name = values.get("name")
    if not isinstance(name, str):
        raise ValueError(f"degradation.name is {name!r}; valid names are {', '.join(TASKS)}")
    if name == "realesrgan":
        preset = values.get("preset", "training")
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"degradation.preset is {preset!r}; valid presets are {', '.join(PRESETS)}")
        return parse(RealESRGANSection, merged(PRESETS[preset], values), "degradation")
    if name == "paired":
        return parse(PairedSection, values, "degradation")
    if name in DRAWN_TASKS:
        return parse(DRAWN_TASKS[name], values, "degradation")
    raise ValueError(f"degradation.name is {name!r}; valid names are {', '.join(TASKS)}")
