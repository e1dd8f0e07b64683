"""How a clean image becomes a degraded one: `build` a degradation, call it on an image, replay it from its record."""

from degradations import kernels
from degradations.builder import build
from degradations.degradation import Degradation
from degradations.record import Pair

__all__ = ["Degradation", "Pair", "build", "kernels"]
