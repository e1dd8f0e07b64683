"""Seeds that follow from where a random number is used, so that no random state has to be carried along."""

import hashlib
from collections.abc import Sequence

import torch


def mix(*values: int) -> int:
    """63 well-mixed bits that follow from the values; the same on every machine."""
    hashed = hashlib.blake2b(repr(values).encode(), digest_size=8)
    return int.from_bytes(hashed.digest(), "big") >> 1


def seed_micro_batch(seed: int, step: int, slots: Sequence[int]) -> None:
    """Let what is drawn from torch's own generators next (dropout) follow from the samples' places in global batches.

    Whoever computes this micro-batch, and whatever was drawn before, it meets the same masks; cut otherwise, others.
    """
    torch.manual_seed(mix(seed, step, slots[0], len(slots)))
