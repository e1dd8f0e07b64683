"""What a degradation returns: a pair, and the record of everything that was drawn for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from degradations.masks import Shape
from degradations.sections import Section, parse
from degradations.steps import Step

RECORD_VERSION = 3  # raised when the same record would no longer give the same bytes


@dataclass(frozen=True)
class Pair:
    """An HQ image, its degraded LQ, and what was done.

    hq: uint8 (H, W, 3), the target: what was handed in, or its gray version where the record says so.
    lq: uint8 (H/scale, W/scale, 3). mask: None, or uint8 (H, W) with 1 = missing.
    record: JSON-able; `Degradation.replay` rebuilds lq (and mask) from it.
    """

    hq: NDArray[np.uint8]
    lq: NDArray[np.uint8]
    record: dict[str, Any]
    mask: NDArray[np.uint8] | None = None


class StoredLQ(Section):
    """Where an LQ that nobody had to make comes from."""

    name: str
    """Path in the LQ folder, posix."""
    height: int
    """Of the whole LQ, pixels."""
    width: int
    left: int = 0
    """Where the pair was cut out, HQ pixels; the size of the cut is the record's."""
    top: int = 0
    mirrored: bool = False
    """Left and right exchanged, after cutting."""


class Record(Section):
    """Everything that was drawn for one pair."""

    version: int = RECORD_VERSION
    degradation: str
    scale: int
    seed: int
    key: str
    variant: int
    height: int
    """Of the HQ, pixels."""
    width: int
    steps: tuple[Step, ...]
    """From HQ to LQ, in order; none where the LQ exists already."""
    hq_steps: tuple[Step, ...] = ()
    """What happens to the HQ itself, before anything else."""
    mask: tuple[Shape, ...] | None = None
    """What is missing (inpainting); None where the task knows no mask."""
    stored: StoredLQ | None = None
    """The LQ of a pair that exists already; None where it is made."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what the task does not know."""
        return self.model_dump(mode="json", exclude_none=True)


def parse_record(record: Mapping[str, Any]) -> Record:
    """`record` as JSON data gives it. Raises ValueError if it is none, or one of another version."""
    version = record.get("version", RECORD_VERSION) if isinstance(record, Mapping) else RECORD_VERSION
    if version != RECORD_VERSION:
        raise ValueError(
            f"record.version is {version!r}; this code replays version {RECORD_VERSION}: use the release that wrote "
            "the record, or draw anew from its seed, key and variant"
        )
    return parse(Record, record, "record")
