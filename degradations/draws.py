"""Drawing parameters: small helpers over an explicit generator. One double each, so they cost little."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Uniform in [low, high)."""
    low, high = bounds
    return low + (high - low) * rng.random()


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Uniform in the logarithm."""
    return math.exp(uniform(rng, (math.log(bounds[0]), math.log(bounds[1]))))


def integer(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    """A whole number, both ends included."""
    low, high = bounds
    return low + int((high - low + 1) * rng.random())


def odd(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    """An odd number between odd ends, both included."""
    low, high = bounds
    return low + 2 * int(((high - low) // 2 + 1) * rng.random())


def happens(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def one_of(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Each option equally likely."""
    return options[int(len(options) * rng.random())]


def pick(rng: np.random.Generator, probabilities: Mapping[T, float]) -> T:
    """A key, drawn with its probability; the probabilities sum to 1."""
    position = rng.random()
    last: T | None = None
    for option, probability in probabilities.items():
        if probability > 0:
            last = option
            position -= probability
            if position < 0:
                return option
    assert last is not None  # sections check that the sum is 1
    return last  # rounding left a crumb


def shuffled(rng: np.random.Generator, items: Sequence[T]) -> list[T]:
    """The items in random order."""
    return [items[i] for i in rng.permutation(len(items))]
