"""Deblurring: camera shake or defocus, then sensor noise, all in linear light.

A shaking camera smears a point along its trajectory (Boracchi and Foi 2012, "Modeling the performance of image
restoration from motion blur"); here a walk of constant speed whose direction wanders and now and then jerks.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from degradations.degradation import Drawn, DrawnSection
from degradations.draws import happens, log_uniform, pick, uniform
from degradations.sections import NonNegativeRange, PositiveRange, Probability, Section, sums_to_one
from degradations.seeding import draw_seed
from degradations.steps import AnyKernel, Blur, DiskKernel, LinearToSrgb, MotionKernel, SensorNoise, SrgbToLinear


class ShakeSection(Section):
    """Camera shake."""

    length_range: PositiveRange = (3.0, 40.0)
    """Length of the trajectory, pixels; uniform in the logarithm."""
    wander_range: NonNegativeRange = (0.0, 0.5)
    """Standard deviation of the change of direction at each of the points, radians; 0 is a straight line."""
    jerk_prob: Probability = 0.04
    """Probability, at each point, that the direction is drawn anew."""
    point_count: int = Field(default=24, ge=2, le=200)


class DefocusSection(Section):
    """Defocus."""

    radius_range: PositiveRange = (0.7, 8.0)
    """Of the circle of confusion, pixels; uniform in the logarithm."""


class DeblurringSection(DrawnSection):
    """`deblurring`: HQ and LQ have the same size."""

    name: Literal["deblurring"] = "deblurring"
    kind_prob: Annotated[dict[Literal["shake", "defocus"], float], AfterValidator(sums_to_one)] = Field(
        default={"shake": 0.7, "defocus": 0.3}
    )
    shake: ShakeSection = ShakeSection()
    defocus: DefocusSection = DefocusSection()
    shot_range: NonNegativeRange = (0.0, 0.3)
    """Variance of the shot noise per linear gray level."""
    read_range: NonNegativeRange = (0.0, 1.5)
    """Standard deviation of the read noise, linear gray levels."""

    def draw(self, rng: np.random.Generator, height: int, width: int, scale: int) -> Drawn:
        kernel: AnyKernel
        if pick(rng, self.kind_prob) == "shake":
            kernel = MotionKernel(points=draw_trajectory(rng, self.shake))
        else:
            radius = log_uniform(rng, self.defocus.radius_range)
            kernel = DiskKernel(size=2 * math.ceil(radius) + 1, radius=radius)
        shot, read = uniform(rng, self.shot_range), uniform(rng, self.read_range)
        noise = SensorNoise(shot=shot, read=read, seed=draw_seed(rng))
        return Drawn(steps=(SrgbToLinear(), Blur(kernel=kernel), noise, LinearToSrgb()))


def draw_trajectory(rng: np.random.Generator, section: ShakeSection) -> tuple[tuple[float, float], ...]:
    """Points (x, y) in pixels, equally spaced in time, about their mean, to a thousandth of a pixel."""
    stride = log_uniform(rng, section.length_range) / (section.point_count - 1)
    wander = uniform(rng, section.wander_range)
    direction = uniform(rng, (0.0, 2 * math.pi))
    points = [(0.0, 0.0)]
    for _ in range(section.point_count - 1):
        x, y = points[-1]
        points.append((x + stride * math.cos(direction), y + stride * math.sin(direction)))
        direction += wander * float(rng.standard_normal())
        if happens(rng, section.jerk_prob):
            direction = uniform(rng, (0.0, 2 * math.pi))
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return tuple((round(x - mean_x, 3), round(y - mean_y, 3)) for x, y in points)
