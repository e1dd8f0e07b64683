"""Plain MATLAB-compatible bicubic downscaling, the classical benchmark setting. Nothing is drawn."""

from __future__ import annotations

from typing import Literal

import numpy as np

from degradations.degradation import DegradationSection
from degradations.steps import MatlabBicubic, Step


class BicubicSection(DegradationSection):
    """`bicubic`: no parameters."""

    name: Literal["bicubic"] = "bicubic"

    def draw(self, rng: np.random.Generator, height: int, width: int, scale: int) -> tuple[Step, ...]:
        return (MatlabBicubic(scale=1 / scale),)
