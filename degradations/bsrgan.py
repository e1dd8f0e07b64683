"""BSRGAN: blur twice, shrink twice, noise and JPEG in a shuffled order, then JPEG once more.

Source: Zhang et al. 2021, "Designing a Practical Degradation Model for Deep Blind Image Super-Resolution". Its camera
pipeline noise, for which it needs a trained model of a camera, is left out.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from degradations.degradation import Drawn, DrawnSection
from degradations.draws import happens, integer, odd, one_of, pick, shuffled, uniform
from degradations.resize import RESIZE_MODES
from degradations.sections import NonNegativeRange, OddRange, Probability, QualityRange, sums_to_one
from degradations.seeding import draw_seed
from degradations.steps import (
    Blur,
    CorrelatedNoise,
    Decimate,
    GaussianKernel,
    GaussianNoise,
    Jpeg,
    MatlabBicubic,
    Resize,
    ShiftedGaussianKernel,
    Step,
)

_SMALLEST_SIGMA = 0.05  # a kernel this narrow is a single pixel; 0 would divide by it


class BsrganSection(DrawnSection):
    """`bsrgan`: the ranges of the paper."""

    name: Literal["bsrgan"] = "bsrgan"
    halve_first_prob: Probability = 0.25
    """Probability, at scale 4, that the image is halved before everything else."""
    blur_size_range: OddRange = (7, 25)
    """Kernel sizes, pixels."""
    anisotropic_prob: Probability = 0.5
    resize_prob: Probability = 0.75
    """Probability that the first shrinking is a resize by 1 to 1/(2 scale); otherwise a Gaussian and decimation."""
    noise_prob: Annotated[dict[Literal["colour", "gray", "correlated"], float], AfterValidator(sums_to_one)] = Field(
        default={"colour": 0.4, "gray": 0.4, "correlated": 0.2}
    )
    gaussian_sigma_range: NonNegativeRange = (2.0, 25.0)
    """Gray levels; the upper end also bounds the correlated noise."""
    jpeg_prob: Probability = 0.9
    """Probability of the JPEG inside the shuffle; the final one is always there."""
    jpeg_quality_range: QualityRange = (30, 95)

    def draw(self, rng: np.random.Generator, height: int, width: int, scale: int) -> Drawn:
        steps: list[Step] = []
        if scale == 4 and happens(rng, self.halve_first_prob):
            height, width, scale = height // 2, width // 2, 2
            halve: Step = MatlabBicubic(scale=0.5)
            steps.append(halve if happens(rng, 0.5) else Resize(height=height, width=width, mode=_mode(rng)))
        order = shuffled(rng, ["blur", "blur again", "shrink", "to LQ size", "noise", "jpeg"])
        first, last = sorted((order.index("shrink"), order.index("to LQ size")))
        order[first], order[last] = "shrink", "to LQ size"
        for action in order:
            if action.startswith("blur"):
                steps.append(self._blur(rng, scale))
            elif action == "shrink":
                steps += self._shrink(rng, height, width, scale)
            elif action == "to LQ size":
                steps.append(Resize(height=height // scale, width=width // scale, mode=_mode(rng)))
            elif action == "noise":
                steps.append(self._noise(rng))
            elif happens(rng, self.jpeg_prob):
                steps.append(self._jpeg(rng))
        return Drawn(steps=(*steps, self._jpeg(rng)))

    def _blur(self, rng: np.random.Generator, scale: int) -> Blur:
        size = odd(rng, self.blur_size_range)
        if happens(rng, self.anisotropic_prob):  # the paper draws variances here and a standard deviation below
            variances = [uniform(rng, (0.0, 4.0 + scale)) for _ in range(2)]
            sigma_x, sigma_y = (max(math.sqrt(variance), _SMALLEST_SIGMA) for variance in variances)
            theta = uniform(rng, (0.0, math.pi))
        else:
            sigma_x = sigma_y = max(uniform(rng, (0.0, 2.0 + 0.2 * scale)), _SMALLEST_SIGMA)
            theta = 0.0
        return Blur(kernel=GaussianKernel(size=size, sigma_x=sigma_x, sigma_y=sigma_y, theta=theta))

    def _shrink(self, rng: np.random.Generator, height: int, width: int, scale: int) -> list[Step]:
        if happens(rng, self.resize_prob):
            factor = 1 / uniform(rng, (1.0, 2.0 * scale))
            size = (max(1, int(height * factor)), max(1, int(width * factor)))
            return [Resize(height=size[0], width=size[1], mode=_mode(rng))]
        sigma = uniform(rng, (0.1, 0.6 * scale))
        centred = (scale - 1) / 2  # between the pixels that decimation merges into one
        kernel = ShiftedGaussianKernel(size=25, sigma=sigma, shift=centred)
        return [Blur(kernel=kernel), Decimate(factor=scale)]

    def _noise(self, rng: np.random.Generator) -> Step:
        kind = pick(rng, self.noise_prob)
        if kind == "correlated":
            return CorrelatedNoise(mixing=_mixing(rng, self.gaussian_sigma_range[1]), seed=draw_seed(rng))
        sigma = uniform(rng, self.gaussian_sigma_range)
        return GaussianNoise(sigma=sigma, gray=kind == "gray", seed=draw_seed(rng))

    def _jpeg(self, rng: np.random.Generator) -> Jpeg:
        return Jpeg(quality=integer(rng, self.jpeg_quality_range))


def _mixing(rng: np.random.Generator, sigma: float) -> tuple[tuple[float, float, float], ...]:
    """(3, 3) matrix A so that A z, z ~ N(0, 1)³, has covariance |σ² Uᵀ D U|, U orthogonal and D diagonal in 0..1."""
    basis, _, _ = np.linalg.svd(rng.random((3, 3)))
    covariance = np.abs(sigma**2 * basis.T @ np.diag(rng.random(3)) @ basis)
    values, vectors = np.linalg.eigh(covariance)  # the absolute values may have left it indefinite
    matrix = vectors * np.sqrt(np.abs(values))
    return tuple((float(row[0]), float(row[1]), float(row[2])) for row in matrix)


def _mode(rng: np.random.Generator) -> Literal["area", "bilinear", "bicubic"]:
    return one_of(rng, RESIZE_MODES)
