"""The steps a degradation is made of: each a frozen record of explicit parameters that knows how to apply itself.

A record is a list of steps, so replaying one is applying the same objects again: drawing never happens here. Images
between steps are RGB (H, W, 3) in gray levels (0..255): float32, or uint8 where a chain starts and after JPEG.
"""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from degradations import blur, jpeg, kernels, linear_light, noise, resize
from degradations.sections import Section

Seed = Annotated[int, Field(ge=0)]


class GaussianKernel(Section):
    kind: Literal["gaussian"] = "gaussian"
    size: int
    sigma_x: float
    sigma_y: float
    theta: float = 0.0

    def array(self) -> kernels.Kernel:
        return kernels.gaussian(self.size, self.sigma_x, self.sigma_y, self.theta)


class ShiftedGaussianKernel(Section):
    """A round Gaussian off the centre, for use before decimation."""

    kind: Literal["shifted_gaussian"] = "shifted_gaussian"
    size: int
    sigma: float
    shift: float
    """Of the peak, to the right and down, pixels."""

    def array(self) -> kernels.Kernel:
        return kernels.gaussian(self.size, self.sigma, shift=self.shift)


class GeneralizedGaussianKernel(Section):
    kind: Literal["generalized_gaussian"] = "generalized_gaussian"
    size: int
    sigma_x: float
    sigma_y: float
    theta: float = 0.0
    beta: float

    def array(self) -> kernels.Kernel:
        return kernels.generalized_gaussian(self.size, self.sigma_x, self.sigma_y, self.theta, beta=self.beta)


class PlateauKernel(Section):
    kind: Literal["plateau"] = "plateau"
    size: int
    sigma_x: float
    sigma_y: float
    theta: float = 0.0
    beta: float

    def array(self) -> kernels.Kernel:
        return kernels.plateau(self.size, self.sigma_x, self.sigma_y, self.theta, beta=self.beta)


class SincKernel(Section):
    kind: Literal["sinc"] = "sinc"
    size: int
    cutoff: float
    """Radians per pixel."""

    def array(self) -> kernels.Kernel:
        return kernels.sinc(self.size, self.cutoff)


class DiskKernel(Section):
    """Defocus."""

    kind: Literal["disk"] = "disk"
    size: int
    radius: float

    def array(self) -> kernels.Kernel:
        return kernels.disk(self.size, self.radius)


class MotionKernel(Section):
    """Camera shake."""

    kind: Literal["motion"] = "motion"
    points: tuple[tuple[float, float], ...]
    """(x, y) in pixels about the centre, equal time between them."""

    def array(self) -> kernels.Kernel:
        return kernels.motion(self.points)


AnyKernel = Annotated[
    GaussianKernel
    | ShiftedGaussianKernel
    | GeneralizedGaussianKernel
    | PlateauKernel
    | SincKernel
    | DiskKernel
    | MotionKernel,
    Field(discriminator="kind"),
]


class Blur(Section):
    op: Literal["blur"] = "blur"
    kernel: AnyKernel

    def apply(self, image: NDArray) -> NDArray:
        return blur.filter2d(image, self.kernel.array())


class Rescale(Section):
    """Resize by a factor; the size is floor(size · factor)."""

    op: Literal["rescale"] = "rescale"
    factor: float
    mode: resize.ResizeMode

    def apply(self, image: NDArray) -> NDArray:
        return resize.rescale(image, self.factor, self.mode)


class Resize(Section):
    """Resize to a size in pixels."""

    op: Literal["resize"] = "resize"
    height: int
    width: int
    mode: resize.ResizeMode

    def apply(self, image: NDArray) -> NDArray:
        return resize.resize(image, self.height, self.width, self.mode)


class MatlabBicubic(Section):
    """MATLAB's antialiased bicubic resize."""

    op: Literal["matlab_bicubic"] = "matlab_bicubic"
    scale: float

    def apply(self, image: NDArray) -> NDArray:
        return resize.matlab_bicubic(image, self.scale)


class Decimate(Section):
    """Every factor-th pixel, from the first."""

    op: Literal["decimate"] = "decimate"
    factor: Annotated[int, Field(ge=1)]

    def apply(self, image: NDArray) -> NDArray:
        return np.ascontiguousarray(image[:: self.factor, :: self.factor])


class GaussianNoise(Section):
    op: Literal["gaussian_noise"] = "gaussian_noise"
    sigma: float
    """Gray levels."""
    gray: bool
    seed: Seed

    def apply(self, image: NDArray) -> NDArray:
        return noise.gaussian_noise(image, self.sigma, self.seed, gray=self.gray)


class PoissonNoise(Section):
    op: Literal["poisson_noise"] = "poisson_noise"
    scale: float
    gray: bool
    seed: Seed

    def apply(self, image: NDArray) -> NDArray:
        return noise.poisson_noise(image, self.scale, self.seed, gray=self.gray)


class CorrelatedNoise(Section):
    """Gaussian noise whose channels are correlated: mixing · z per pixel, z standard normal."""

    op: Literal["correlated_noise"] = "correlated_noise"
    mixing: tuple[tuple[float, float, float], ...]
    seed: Seed

    def apply(self, image: NDArray) -> NDArray:
        return noise.correlated_noise(image, self.mixing, self.seed)


class SensorNoise(Section):
    """Shot and read noise of linear light."""

    op: Literal["sensor_noise"] = "sensor_noise"
    shot: float
    read: float
    seed: Seed

    def apply(self, image: NDArray) -> NDArray:
        return linear_light.sensor_noise(image, self.shot, self.read, self.seed)


class SrgbToLinear(Section):
    op: Literal["srgb_to_linear"] = "srgb_to_linear"

    def apply(self, image: NDArray) -> NDArray:
        return linear_light.srgb_to_linear(image)


class LinearToSrgb(Section):
    op: Literal["linear_to_srgb"] = "linear_to_srgb"

    def apply(self, image: NDArray) -> NDArray:
        return linear_light.linear_to_srgb(image)


class Gray(Section):
    """Three channels of the luma (0.299, 0.587, 0.114)."""

    op: Literal["gray"] = "gray"

    def apply(self, image: NDArray) -> NDArray:
        return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


class Jpeg(Section):
    op: Literal["jpeg"] = "jpeg"
    quality: int

    def apply(self, image: NDArray) -> NDArray:
        return jpeg.jpeg(image, self.quality)


Step = Annotated[
    Blur
    | Rescale
    | Resize
    | MatlabBicubic
    | Decimate
    | GaussianNoise
    | PoissonNoise
    | CorrelatedNoise
    | SensorNoise
    | SrgbToLinear
    | LinearToSrgb
    | Jpeg
    | Gray,
    Field(discriminator="op"),
]


def apply_steps(image: NDArray, steps: tuple[Step, ...]) -> NDArray:
    """Runs `image` (H, W, 3), uint8 or float32 gray levels, through `steps`, in order."""
    for step in steps:
        image = step.apply(image)
    return image
