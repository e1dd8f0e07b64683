"""Albumentations transforms of what a camera does: shake, defocus, and the noise of its sensor, all in linear light."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from albumentations.core.transforms_interface import BaseTransformInitSchema
from pydantic import Field

from degradations.deblurring import DeblurringSection, DefocusSection, ShakeSection, draw_trajectory
from degradations.draws import log_uniform, uniform
from degradations.sections import NonNegativeRange, PositiveRange, Probability
from degradations.seeding import draw_seed
from degradations.steps import Blur, DiskKernel, LinearToSrgb, MotionKernel, SensorNoise, SrgbToLinear, Step
from degradations.transforms import StepTransform

_DEFAULTS = DeblurringSection()


class CameraShake(StepTransform):
    """Motion blur along a random trajectory; arguments as in `ShakeSection`."""

    class InitSchema(BaseTransformInitSchema):
        length_range: PositiveRange
        wander_range: NonNegativeRange
        jerk_prob: Probability
        point_count: Annotated[int, Field(ge=2, le=200)]

    def __init__(
        self,
        length_range: tuple[float, float] = _DEFAULTS.shake.length_range,
        wander_range: tuple[float, float] = _DEFAULTS.shake.wander_range,
        jerk_prob: float = _DEFAULTS.shake.jerk_prob,
        point_count: int = _DEFAULTS.shake.point_count,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.length_range = length_range
        self.wander_range = wander_range
        self.jerk_prob = jerk_prob
        self.point_count = point_count

    def draw(self, rng: np.random.Generator) -> tuple[Step, ...]:
        section = ShakeSection(
            length_range=self.length_range,
            wander_range=self.wander_range,
            jerk_prob=self.jerk_prob,
            point_count=self.point_count,
        )
        return SrgbToLinear(), Blur(kernel=MotionKernel(points=draw_trajectory(rng, section))), LinearToSrgb()


class Defocus(StepTransform):
    """A disk blur; its radius in pixels is uniform in the logarithm."""

    class InitSchema(BaseTransformInitSchema):
        radius_range: PositiveRange

    def __init__(self, radius_range: tuple[float, float] = DefocusSection().radius_range, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.radius_range = radius_range

    def draw(self, rng: np.random.Generator) -> tuple[Step, ...]:
        radius = log_uniform(rng, self.radius_range)
        kernel = DiskKernel(size=2 * math.ceil(radius) + 1, radius=radius)
        return SrgbToLinear(), Blur(kernel=kernel), LinearToSrgb()


class AddSensorNoise(StepTransform):
    """Shot noise (variance per linear gray level) and read noise (standard deviation, linear gray levels)."""

    class InitSchema(BaseTransformInitSchema):
        shot_range: NonNegativeRange
        read_range: NonNegativeRange

    def __init__(
        self,
        shot_range: tuple[float, float] = _DEFAULTS.shot_range,
        read_range: tuple[float, float] = _DEFAULTS.read_range,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.shot_range = shot_range
        self.read_range = read_range

    def draw(self, rng: np.random.Generator) -> tuple[Step, ...]:
        shot, read = uniform(rng, self.shot_range), uniform(rng, self.read_range)
        return SrgbToLinear(), SensorNoise(shot=shot, read=read, seed=draw_seed(rng)), LinearToSrgb()
