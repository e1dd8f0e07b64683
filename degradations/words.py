"""A step in a few plain words, for people who look at pictures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from degradations import steps as s
from degradations.masks import Stroke
from degradations.record import Record
from degradations.sections import parse


def describe_record(record: Mapping[str, Any]) -> list[str]:
    """The steps of a pair's record, one short phrase each. Raises ValueError if it is none that can be read.

    One of another version may be: the words need its fields, not the bytes that they gave.
    """
    parsed = parse(Record, record, "record")
    if parsed.stored is not None:
        return [f"from {parsed.stored.name}"]
    return [describe(step) for step in parsed.steps] + _mask(parsed)


def describe(step: s.Step) -> str:
    """One short phrase, e.g. `blur gaussian 13 px, sigma 0.9 x 1.1`."""
    match step:
        case s.Blur(kernel=kernel):
            return f"blur {_kernel(kernel)}"
        case s.Rescale(factor=factor, mode=mode):
            return "size kept" if factor == 1 else f"rescale x{factor:.2f} {mode}"
        case s.Resize(height=height, width=width, mode=mode):
            return f"resize to {width}x{height} {mode}"
        case s.MatlabBicubic(scale=scale):
            return f"antialiased bicubic x{scale:g}"
        case s.Decimate(factor=factor):
            return f"one pixel in {factor}"
        case s.GaussianNoise(sigma=sigma, gray=gray):
            return f"{_colour(gray)} noise, sigma {sigma:.1f}"
        case s.PoissonNoise(scale=scale, gray=gray):
            return f"{_colour(gray)} Poisson noise x{scale:.2f}"
        case s.CorrelatedNoise(mixing=mixing):
            sigmas = "/".join(f"{math.hypot(*row):.0f}" for row in mixing)
            return f"correlated noise, sigma {sigmas}"
        case s.SensorNoise(shot=shot, read=read):
            return f"sensor noise, shot {shot:.2f}, read {read:.1f}"
        case s.Jpeg(quality=quality):
            return f"JPEG quality {quality}"
        case s.SrgbToLinear():
            return "to linear light"
        case s.LinearToSrgb():
            return "back to sRGB"
        case s.Gray():
            return "gray"


def _mask(record: Record) -> list[str]:
    if record.mask is None:
        return []
    kinds = Counter("stroke" if isinstance(shape, Stroke) else "box" for shape in record.mask)
    plural = {"stroke": "strokes", "box": "boxes"}
    return [f"{count} {kind if count == 1 else plural[kind]} missing" for kind, count in kinds.items()]


def _kernel(kernel: s.AnyKernel) -> str:
    match kernel:
        case s.GaussianKernel() | s.GeneralizedGaussianKernel() | s.PlateauKernel():
            name = kernel.kind.replace("_", " ")
            shape = "" if isinstance(kernel, s.GaussianKernel) else f", beta {kernel.beta:.1f}"
            sigma = f"{kernel.sigma_x:.1f}"
            if kernel.sigma_y != kernel.sigma_x:
                sigma += f" x {kernel.sigma_y:.1f} at {math.degrees(kernel.theta):.0f}°"
            return f"{name} {kernel.size} px, sigma {sigma}{shape}"
        case s.ShiftedGaussianKernel(sigma=sigma_off):
            return f"gaussian, sigma {sigma_off:.1f}"
        case s.SincKernel(size=size, cutoff=cutoff):
            return f"sinc {size} px, cutoff {cutoff / math.pi:.2f} pi"
        case s.DiskKernel(radius=radius):
            return f"defocus, radius {radius:.1f} px"
        case s.MotionKernel(points=points):
            length = sum(math.dist(a, b) for a, b in pairwise(points))
            return f"camera shake, {length:.0f} px"


def _colour(gray: bool) -> str:
    return "gray" if gray else "colour"
