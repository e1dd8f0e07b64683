"""Where all randomness comes from: SFC64 generators derived from plain integers, never global state."""

from __future__ import annotations

import hashlib

import numpy as np

SEED_BITS = 53  # seeds survive a trip through JSON readers that only know doubles


def generator(seed: int) -> np.random.Generator:
    """The generator of a recorded seed."""
    return np.random.Generator(np.random.SFC64(seed))


def sample_generator(seed: int, key: str, variant: int) -> np.random.Generator:
    """The generator of one sample. It depends on (seed, key, variant) alone, not on order, process or worker."""
    digest = hashlib.sha256(f"{seed}/{variant}/{key}".encode()).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest[:8], "little")))


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for one step, to be written into the record."""
    return int(rng.random() * (1 << SEED_BITS))
