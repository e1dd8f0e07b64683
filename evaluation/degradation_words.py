"""What was done to an image, in plain words, from the record of its degradation."""

from collections.abc import Callable, Mapping
from typing import Any

_KERNELS = {
    "gaussian": "Gaussian",
    "generalized_gaussian": "generalised Gaussian",
    "plateau": "plateau",
    "box": "box",
    "motion": "motion",
}


def describe(record: Mapping[str, Any]) -> list[str]:
    """The steps of a sample's record, one short phrase each; empty if nothing is recorded.

    A step this version does not know keeps its own name, so that nothing that was done goes unsaid.
    """
    degradation = record.get("degradation", record)
    steps = degradation.get("steps", []) if isinstance(degradation, Mapping) else []
    return [_WORDS.get(str(step.get("op")), _unknown)(step) for step in steps]


def _blur(step: Mapping[str, Any]) -> str:
    kernel = step.get("kernel", {})
    kind, size = kernel.get("kind", "unknown"), kernel.get("size", "?")
    if kind == "sinc":
        return f"ringing, sinc {size} px"
    sigmas = [float(kernel[name]) for name in ("sigma_x", "sigma_y") if name in kernel]
    shown = sorted({f"{sigma:.1f}" for sigma in sigmas})
    return f"{_KERNELS.get(kind, kind)} blur {size} px" + (f", σ {' × '.join(shown)}" if shown else "")


def _rescale(step: Mapping[str, Any]) -> str:
    factor = float(step.get("factor", 1.0))
    if abs(factor - 1) < 1e-9:
        return "size kept"
    return f"{'enlarged' if factor > 1 else 'shrunk'} to {100 * factor:.0f} % ({_mode(step)})"


def _resize(step: Mapping[str, Any]) -> str:
    return f"resized to {step.get('width')}×{step.get('height')} ({_mode(step)})"


def _matlab_bicubic(step: Mapping[str, Any]) -> str:
    return f"shrunk to {100 * float(step.get('scale', 1)):.0f} % (antialiased bicubic)"


def _gaussian_noise(step: Mapping[str, Any]) -> str:
    return f"{_colour(step)} noise σ {float(step.get('sigma', 0)):.0f}"


def _poisson_noise(step: Mapping[str, Any]) -> str:
    return f"{_colour(step)} Poisson noise × {float(step.get('scale', 0)):.2f}"


def _jpeg(step: Mapping[str, Any]) -> str:
    return f"JPEG quality {step.get('quality')}"


def _unknown(step: Mapping[str, Any]) -> str:
    return str(step.get("op", "unknown step")).replace("_", " ")


def _mode(step: Mapping[str, Any]) -> str:
    return str(step.get("mode"))


def _colour(step: Mapping[str, Any]) -> str:
    return "gray" if step.get("gray") else "colour"


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "blur": _blur,
    "rescale": _rescale,
    "resize": _resize,
    "matlab_bicubic": _matlab_bicubic,
    "gaussian_noise": _gaussian_noise,
    "poisson_noise": _poisson_noise,
    "jpeg": _jpeg,
}
