"""Albumentations transforms over the same pure functions: they only draw parameters.

Usable in any `A.Compose`, seeded by it, and serialisable with albumentations' own `to_dict` / `from_dict`. Images are
RGB (H, W, 3), uint8 in 0..255 or float32 in 0..1, and come back in the type they came in. `RandomRescale` and `Degrade`
change the size of the image alone, so put them after whatever needs image and mask to match. Shake, defocus and sensor
noise are in `camera_transforms`, masks in `mask_transforms`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

import albumentations as A
import numpy as np
from albumentations.core.transforms_interface import BaseTransformInitSchema
from numpy.typing import NDArray
from pydantic import AfterValidator, TypeAdapter

from degradations.arrays import to_float32, to_uint8
from degradations.builder import build
from degradations.draws import happens, integer, odd, one_of, pick, uniform
from degradations.realesrgan import TRAINING, BlurSection, KernelKind, draw_kernel
from degradations.resize import RESIZE_MODES
from degradations.sections import (
    NonNegativeRange,
    OddRange,
    PositiveRange,
    Probability,
    QualityRange,
    sums_to_one,
)
from degradations.seeding import draw_seed
from degradations.steps import Blur, GaussianNoise, Jpeg, PoissonNoise, Rescale, SincKernel, Step, apply_steps

_FIRST = TRAINING["first"]
_BLUR = _FIRST["blur"]
_STEPS = TypeAdapter(tuple[Step, ...])


class StepTransform(A.ImageOnlyTransform):
    """A transform that draws steps and applies them. What it drew stands in `params["steps"]`, as plain values."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> tuple[Step, ...]:
        """The steps, every parameter drawn from `rng`."""

    def get_params(self) -> dict[str, Any]:
        return {"steps": [step.model_dump(mode="json") for step in self.draw(self.random_generator)]}

    def apply(self, img: NDArray, steps: list[dict[str, Any]], **params: Any) -> NDArray:
        parsed = _STEPS.validate_python(steps)
        if img.dtype == np.uint8:
            return to_uint8(apply_steps(img, parsed))
        out = to_float32(apply_steps(to_float32(img) * np.float32(255), parsed))
        return np.clip(out / np.float32(255), 0, 1)


class KernelBlur(StepTransform):
    """Blur with a Gaussian, generalised Gaussian, plateau or sinc kernel; arguments as in `BlurSection`."""

    class InitSchema(BaseTransformInitSchema):
        size_range: OddRange
        kind_prob: Annotated[dict[KernelKind, float], AfterValidator(sums_to_one)]
        sinc_prob: Probability
        sigma_range: PositiveRange
        generalized_beta_range: PositiveRange
        plateau_beta_range: PositiveRange

    def __init__(
        self,
        size_range: tuple[int, int] = tuple(_BLUR["size_range"]),
        kind_prob: dict[KernelKind, float] = _BLUR["kind_prob"],
        sinc_prob: float = _BLUR["sinc_prob"],
        sigma_range: tuple[float, float] = tuple(_BLUR["sigma_range"]),
        generalized_beta_range: tuple[float, float] = tuple(_BLUR["generalized_beta_range"]),
        plateau_beta_range: tuple[float, float] = tuple(_BLUR["plateau_beta_range"]),
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.size_range = size_range
        self.kind_prob = kind_prob
        self.sinc_prob = sinc_prob
        self.sigma_range = sigma_range
        self.generalized_beta_range = generalized_beta_range
        self.plateau_beta_range = plateau_beta_range

    def draw(self, rng: np.random.Generator) -> tuple[Step, ...]:
        section = BlurSection(
            size_range=self.size_range,
            kind_prob=self.kind_prob,
            sinc_prob=self.sinc_prob,
            sigma_range=self.sigma_range,
            generalized_beta_range=self.generalized_beta_range,
            plateau_beta_range=self.plateau_beta_range,
        )
        return (Blur(kernel=draw_kernel(rng, section)),)


class SincBlur(StepTransform):
    """Ringing: an ideal low-pass filter, its cutoff in radians per pixel."""

    class InitSchema(BaseTransformInitSchema):
        size_range: OddRange
        cutoff_range: PositiveRange

    def __init__(
        self,
        size_range: tuple[int, int] = (3, 13),
        cutoff_range: tuple[float, float] = (np.pi / 3, np.pi),
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.size_range = size_range
        self.cutoff_range = cutoff_range

    def draw(self, rng: np.random.Generator) -> tuple[Step, ...]:
        return (Blur(kernel=SincKernel(size=odd(rng, self.size_range), cutoff=uniform(rng, self.cutoff_range))),)


class RandomRescale(StepTransform):
    """Up, down or not at all, by area, bilinear or bicubic interpolation; 1 separates down from up."""

    class InitSchema(BaseTransformInitSchema):
        resize_prob: Annotated[dict[str, float], AfterValidator(sums_to_one)]
        resize_range: PositiveRange

    def __init__(
        self,
        resize_prob: dict[str, float] = _FIRST["resize_prob"],
        resize_range: tuple[float, float] = tuple(_FIRST["resize_range"]),
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.resize_prob = resize_prob
        self.resize_range = resize_range

    def draw(self, rng: np.random.Generator) -> tuple[Step, ...]:
        low, high = self.resize_range
        bounds = {"up": (1.0, max(1.0, high)), "down": (min(1.0, low), 1.0), "keep": (1.0, 1.0)}
        return (Rescale(factor=uniform(rng, bounds[pick(rng, self.resize_prob)]), mode=one_of(rng, RESIZE_MODES)),)


class AddGaussianNoise(StepTransform):
    """Gaussian noise, sigma in gray levels of 255; gray noise is the same in the three channels."""

    class InitSchema(BaseTransformInitSchema):
        sigma_range: NonNegativeRange
        gray_prob: Probability

    def __init__(
        self,
        sigma_range: tuple[float, float] = tuple(_FIRST["gaussian_sigma_range"]),
        gray_prob: float = _FIRST["gray_noise_prob"],
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.sigma_range = sigma_range
        self.gray_prob = gray_prob

    def draw(self, rng: np.random.Generator) -> tuple[Step, ...]:
        sigma = uniform(rng, self.sigma_range)
        return (GaussianNoise(sigma=sigma, gray=happens(rng, self.gray_prob), seed=draw_seed(rng)),)


class AddPoissonNoise(StepTransform):
    """Shot noise times a scale; gray noise is the same in the three channels."""

    class InitSchema(BaseTransformInitSchema):
        scale_range: NonNegativeRange
        gray_prob: Probability

    def __init__(
        self,
        scale_range: tuple[float, float] = tuple(_FIRST["poisson_scale_range"]),
        gray_prob: float = _FIRST["gray_noise_prob"],
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.scale_range = scale_range
        self.gray_prob = gray_prob

    def draw(self, rng: np.random.Generator) -> tuple[Step, ...]:
        scale = uniform(rng, self.scale_range)
        return (PoissonNoise(scale=scale, gray=happens(rng, self.gray_prob), seed=draw_seed(rng)),)


class JpegCompression(StepTransform):
    """JPEG by libjpeg-turbo, 4:2:0."""

    class InitSchema(BaseTransformInitSchema):
        quality_range: QualityRange

    def __init__(self, quality_range: tuple[int, int] = tuple(_FIRST["jpeg_quality_range"]), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.quality_range = quality_range

    def draw(self, rng: np.random.Generator) -> tuple[Step, ...]:
        return (Jpeg(quality=integer(rng, self.quality_range)),)


class Degrade(A.ImageOnlyTransform):
    """A whole task, as `degradations.build` makes it: HQ in, LQ out. uint8 images only."""

    class InitSchema(BaseTransformInitSchema):
        section: str | dict[str, Any]
        scale: int

    def __init__(self, section: str | dict[str, Any] = "realesrgan", scale: int = 4, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.section = section
        self.scale = scale
        self._degrade = build(section, scale=scale)

    def get_params(self) -> dict[str, Any]:
        return {"seed": draw_seed(self.random_generator)}

    def apply(self, img: NDArray, seed: int, **params: Any) -> NDArray:
        return self._degrade(img, seed=seed).lq
