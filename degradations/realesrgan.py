"""The second-order degradation of Real-ESRGAN, with the ranges ResShift trains and tests on.

    blur -> rescale -> noise -> JPEG -> [blur -> resize -> noise] -> {resize + sinc, JPEG} in either order

Source: Wang et al. 2021, "Real-ESRGAN", figure 2, and Yue et al. 2023, "ResShift", section 4.1: unlike Real-ESRGAN, the
second round of blur, resize and noise is skipped for half of the images.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator

from degradations.degradation import Drawn, DrawnSection
from degradations.draws import happens, integer, odd, one_of, pick, uniform
from degradations.resize import RESIZE_MODES
from degradations.sections import (
    NonNegativeRange,
    OddRange,
    PositiveRange,
    Probability,
    QualityRange,
    Section,
    sums_to_one,
)
from degradations.seeding import draw_seed
from degradations.steps import (
    AnyKernel,
    Blur,
    GaussianKernel,
    GaussianNoise,
    GeneralizedGaussianKernel,
    Jpeg,
    PlateauKernel,
    PoissonNoise,
    Rescale,
    Resize,
    SincKernel,
    Step,
)

KernelKind = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]


class BlurSection(Section):
    """What a blur kernel is drawn from."""

    size_range: OddRange
    """Kernel size, pixels: every odd size in it is equally likely."""
    kind_prob: Annotated[dict[KernelKind, float], AfterValidator(sums_to_one)]
    """Probability of each kernel kind, given that it is not a sinc kernel."""
    sinc_prob: Probability
    """Probability of a sinc kernel; its cutoff starts at pi/3, or at pi/5 from 13 pixels up."""
    sigma_range: PositiveRange
    """Standard deviations, pixels."""
    generalized_beta_range: PositiveRange
    """Shape of the generalised Gaussian: below and above 1 are equally likely."""
    plateau_beta_range: PositiveRange
    """Shape of the plateau kernel: below and above 1 are equally likely."""


class StageSection(Section):
    """One round of blur, resize, noise and JPEG."""

    blur: BlurSection
    resize_prob: Annotated[dict[Literal["up", "down", "keep"], float], AfterValidator(sums_to_one)]
    resize_range: PositiveRange
    """Smallest and largest resize factor; 1 separates down from up. In the second stage relative to the LQ size."""
    gaussian_noise_prob: Probability
    """Probability of Gaussian noise; otherwise the noise is Poisson."""
    gaussian_sigma_range: NonNegativeRange
    """Gray levels."""
    poisson_scale_range: NonNegativeRange
    gray_noise_prob: Probability
    """Probability that the three channels share their noise."""
    jpeg_quality_range: QualityRange


class RealESRGANSection(DrawnSection):
    """`realesrgan`: the defaults are the preset's; any of them can be overridden."""

    name: Literal["realesrgan"] = "realesrgan"
    preset: Literal["training", "testing"] = "training"
    first: StageSection
    second_order_prob: Probability
    """Probability of the second round of blur, resize and noise. The final JPEG and sinc are always applied."""
    second_blur_prob: Probability
    second: StageSection
    final_sinc_prob: Probability

    def draw(self, rng: np.random.Generator, height: int, width: int, scale: int) -> Drawn:
        lq_height, lq_width = height // scale, width // scale
        first, second = self.first, self.second
        steps: list[Step] = [
            Blur(kernel=draw_kernel(rng, first.blur)),
            Rescale(factor=max(_resize_factor(rng, first), 1 / min(height, width)), mode=one_of(rng, RESIZE_MODES)),
            _noise(rng, first),
            _jpeg(rng, first),
        ]
        if happens(rng, self.second_order_prob):
            if happens(rng, self.second_blur_prob):
                steps.append(Blur(kernel=draw_kernel(rng, second.blur)))
            factor = _resize_factor(rng, second)
            between = (max(1, int(height / scale * factor)), max(1, int(width / scale * factor)))
            steps += [Resize(height=between[0], width=between[1], mode=one_of(rng, RESIZE_MODES)), _noise(rng, second)]
        finish: list[Step] = [Resize(height=lq_height, width=lq_width, mode=one_of(rng, RESIZE_MODES))]
        if happens(rng, self.final_sinc_prob):
            size = odd(rng, second.blur.size_range)
            finish.append(Blur(kernel=SincKernel(size=size, cutoff=uniform(rng, (math.pi / 3, math.pi)))))
        compress: list[Step] = [_jpeg(rng, second)]
        steps += finish + compress if happens(rng, 0.5) else compress + finish
        return Drawn(steps=tuple(steps))


def draw_kernel(rng: np.random.Generator, section: BlurSection) -> AnyKernel:
    """A kernel from the ranges of `section`."""
    size = odd(rng, section.size_range)
    if happens(rng, section.sinc_prob):
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        return SincKernel(size=size, cutoff=uniform(rng, (lowest, math.pi)))
    kind = pick(rng, section.kind_prob)
    sigma_x = sigma_y = uniform(rng, section.sigma_range)
    theta = 0.0
    if kind.endswith("aniso"):
        sigma_y = uniform(rng, section.sigma_range)
        theta = uniform(rng, (-math.pi, math.pi))
    if kind.startswith("generalized"):
        beta = _beta(rng, section.generalized_beta_range)
        return GeneralizedGaussianKernel(size=size, sigma_x=sigma_x, sigma_y=sigma_y, theta=theta, beta=beta)
    if kind.startswith("plateau"):
        beta = _beta(rng, section.plateau_beta_range)
        return PlateauKernel(size=size, sigma_x=sigma_x, sigma_y=sigma_y, theta=theta, beta=beta)
    return GaussianKernel(size=size, sigma_x=sigma_x, sigma_y=sigma_y, theta=theta)


def _beta(rng: np.random.Generator, beta_range: tuple[float, float]) -> float:
    """Half of the draws between the lower end and 1, half between 1 and the upper end (each end may lie past 1)."""
    return uniform(rng, (beta_range[0], 1.0) if happens(rng, 0.5) else (1.0, beta_range[1]))


def _resize_factor(rng: np.random.Generator, stage: StageSection) -> float:
    direction = pick(rng, stage.resize_prob)
    low, high = stage.resize_range
    if direction == "up":
        return uniform(rng, (1.0, max(1.0, high)))
    if direction == "down":
        return uniform(rng, (min(1.0, low), 1.0))
    return 1.0


def _noise(rng: np.random.Generator, stage: StageSection) -> Step:
    gaussian = happens(rng, stage.gaussian_noise_prob)
    gray = happens(rng, stage.gray_noise_prob)
    if gaussian:
        return GaussianNoise(sigma=uniform(rng, stage.gaussian_sigma_range), gray=gray, seed=draw_seed(rng))
    return PoissonNoise(scale=uniform(rng, stage.poisson_scale_range), gray=gray, seed=draw_seed(rng))


def _jpeg(rng: np.random.Generator, stage: StageSection) -> Jpeg:
    return Jpeg(quality=integer(rng, stage.jpeg_quality_range))


_KIND_PROB = {
    "iso": 0.45,
    "aniso": 0.25,
    "generalized_iso": 0.12,
    "generalized_aniso": 0.03,
    "plateau_iso": 0.12,
    "plateau_aniso": 0.03,
}

TRAINING: dict[str, Any] = {
    "first": {
        "blur": {
            "size_range": [3, 19],
            "kind_prob": _KIND_PROB,
            "sinc_prob": 0.1,
            "sigma_range": [0.2, 3.0],
            "generalized_beta_range": [0.5, 4.0],
            "plateau_beta_range": [1.0, 2.0],
        },
        "resize_prob": {"up": 0.2, "down": 0.7, "keep": 0.1},
        "resize_range": [0.15, 1.5],
        "gaussian_noise_prob": 0.5,
        "gaussian_sigma_range": [1, 30],
        "poisson_scale_range": [0.05, 3.0],
        "gray_noise_prob": 0.4,
        "jpeg_quality_range": [30, 95],
    },
    "second_order_prob": 0.5,
    "second_blur_prob": 0.8,
    "second": {
        "blur": {
            "size_range": [3, 13],
            "kind_prob": _KIND_PROB,
            "sinc_prob": 0.1,
            "sigma_range": [0.2, 1.5],
            "generalized_beta_range": [0.5, 4.0],
            "plateau_beta_range": [1.0, 2.0],
        },
        "resize_prob": {"up": 0.3, "down": 0.4, "keep": 0.3},
        "resize_range": [0.3, 1.2],
        "gaussian_noise_prob": 0.5,
        "gaussian_sigma_range": [1, 25],
        "poisson_scale_range": [0.05, 2.5],
        "gray_noise_prob": 0.4,
        "jpeg_quality_range": [30, 95],
    },
    "final_sinc_prob": 0.8,
}
"""The ranges ResShift is trained with (real-world super-resolution)."""

TESTING: dict[str, Any] = {
    "first": {
        "blur": {
            "size_range": [3, 11],
            "kind_prob": {"iso": 0.6, "aniso": 0.4},
            "sinc_prob": 0.1,
            "sigma_range": [0.2, 0.8],
            "generalized_beta_range": [1.0, 1.5],
            "plateau_beta_range": [1.0, 1.2],
        },
        "resize_prob": {"up": 0.2, "down": 0.7, "keep": 0.1},
        "resize_range": [0.5, 1.5],
        "gaussian_noise_prob": 0.5,
        "gaussian_sigma_range": [1, 15],
        "poisson_scale_range": [0.05, 0.3],
        "gray_noise_prob": 0.4,
        "jpeg_quality_range": [70, 95],
    },
    "second_order_prob": 0.0,
    "second_blur_prob": 0.2,
    "second": {
        "blur": {
            "size_range": [3, 5],
            "kind_prob": {"iso": 0.6, "aniso": 0.4},
            "sinc_prob": 0.0,
            "sigma_range": [0.2, 0.5],
            "generalized_beta_range": [0.5, 0.8],
            "plateau_beta_range": [1.0, 1.2],
        },
        "resize_prob": {"up": 0.3, "down": 0.4, "keep": 0.3},
        "resize_range": [0.8, 1.2],
        "gaussian_noise_prob": 0.5,
        "gaussian_sigma_range": [1, 10],
        "poisson_scale_range": [0.05, 0.2],
        "gray_noise_prob": 0.4,
        "jpeg_quality_range": [80, 100],
    },
    "final_sinc_prob": 0.2,
}
"""The lighter ranges ResShift's synthetic test sets are made with."""

PRESETS = {"training": TRAINING, "testing": TESTING}
