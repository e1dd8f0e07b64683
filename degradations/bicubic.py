"""Plain MATLAB-compatible bicubic downscaling, the classical benchmark setting. Nothing is drawn."""

from __future__ import annotations

from typing import Literal

import numpy as np

from degradations.degradation import Drawn, DrawnSection
from degradations.steps import MatlabBicubic


class BicubicSection(DrawnSection):
    """`bicubic`: no parameters."""

    name: Literal["bicubic"] = "bicubic"

    def draw(self, rng: np.random.Generator, height: int, width: int, scale: int) -> Drawn:
        return Drawn(steps=(MatlabBicubic(scale=1 / scale),))
