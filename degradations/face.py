"""Blind face restoration: blur, shrink, noise, JPEG, and back to the original size.

Source: Wang et al. 2021, "Towards Real-World Blind Face Restoration with Generative Facial Prior" (GFPGAN), equation 1,
with the ranges of Yue et al., "ResShift". One image in a hundred is turned gray, HQ and LQ alike.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from degradations.degradation import Drawn, DrawnSection
from degradations.draws import happens, integer, pick, uniform
from degradations.sections import NonNegativeRange, OddSize, PositiveRange, Probability, QualityRange, sums_to_one
from degradations.seeding import draw_seed
from degradations.steps import Blur, GaussianKernel, GaussianNoise, Gray, Jpeg, Resize


class FaceSection(DrawnSection):
    """`face`: HQ and LQ have the same size."""

    name: Literal["face"] = "face"
    kernel_size: OddSize = 41
    """Pixels."""
    kind_prob: Annotated[dict[Literal["iso", "aniso"], float], AfterValidator(sums_to_one)] = Field(
        default={"iso": 0.5, "aniso": 0.5}
    )
    sigma_range: PositiveRange = (0.1, 15.0)
    """Pixels."""
    shrink_range: PositiveRange = (0.8, 32.0)
    """The image is shrunk by this factor (enlarged below 1)."""
    gaussian_sigma_range: NonNegativeRange = (0.0, 20.0)
    """Gray levels."""
    jpeg_quality_range: QualityRange = (30, 100)
    gray_prob: Probability = 0.01
    """Probability that HQ and LQ lose their colour."""

    def draw(self, rng: np.random.Generator, height: int, width: int, scale: int) -> Drawn:
        sigma_x = sigma_y = uniform(rng, self.sigma_range)
        theta = 0.0
        if pick(rng, self.kind_prob) == "aniso":
            sigma_y = uniform(rng, self.sigma_range)
            theta = uniform(rng, (-math.pi, math.pi))
        shrink = uniform(rng, self.shrink_range)
        small = (max(1, int(height // shrink)), max(1, int(width // shrink)))
        gray = (Gray(),) if happens(rng, self.gray_prob) else ()
        steps = (
            Blur(kernel=GaussianKernel(size=self.kernel_size, sigma_x=sigma_x, sigma_y=sigma_y, theta=theta)),
            Resize(height=small[0], width=small[1], mode="bilinear"),
            GaussianNoise(sigma=uniform(rng, self.gaussian_sigma_range), gray=False, seed=draw_seed(rng)),
            Jpeg(quality=integer(rng, self.jpeg_quality_range)),
            Resize(height=height, width=width, mode="bilinear"),
            *gray,
        )
        return Drawn(steps=steps, hq_steps=gray)
