"""A degradation: draws a record for an image, and applies a record to an image.

`degrade(hq, seed)` is draw then apply, `replay(hq, record)` is apply alone: a replay is bit-identical by construction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degradations.arrays import check_hq, to_uint8
from degradations.masks import Shape, blacked_out, paint_mask
from degradations.sections import Section, parse
from degradations.seeding import sample_generator
from degradations.steps import Step, apply_steps

RECORD_VERSION = 1  # raised when the same record would no longer give the same bytes
MIN_LQ_SIDE = 8


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


class Drawn(NamedTuple):
    """What a section draws for one image; the fields as in `Record`."""

    steps: tuple[Step, ...] = ()
    hq_steps: tuple[Step, ...] = ()
    mask: tuple[Shape, ...] | None = None


class Record(Section):
    """Everything that was drawn for one pair."""

    version: int
    degradation: str
    scale: int
    seed: int
    key: str
    variant: int
    height: int
    """Of the HQ, pixels."""
    width: int
    steps: tuple[Step, ...]
    """From HQ to LQ, in order."""
    hq_steps: tuple[Step, ...] = ()
    """What happens to the HQ itself, before anything else."""
    mask: tuple[Shape, ...] | None = None
    """What is missing (inpainting); None where the task knows no mask."""

    @classmethod
    def of(
        cls, degradation: Degradation, seed: int, key: str, variant: int, height: int, width: int, drawn: Drawn
    ) -> Record:
        """The record of what `degradation` has drawn."""
        return cls(
            version=RECORD_VERSION,
            degradation=degradation.section.name,
            scale=degradation.scale,
            seed=seed,
            key=key,
            variant=variant,
            height=height,
            width=width,
            steps=drawn.steps,
            hq_steps=drawn.hq_steps,
            mask=drawn.mask,
        )


class DegradationSection(Section, ABC):
    """Base of the configuration of a task: its ranges, and how to draw from them."""

    name: str

    @abstractmethod
    def draw(self, rng: np.random.Generator, height: int, width: int, scale: int) -> Drawn:
        """What to do with one image of `height` x `width` pixels, every parameter drawn from `rng`."""


class Degradation:
    """Makes LQ images out of HQ images of one configuration and scale. Made by `build`; holds no state."""

    def __init__(self, section: DegradationSection, scale: int) -> None:
        self.section = section
        self.scale = scale

    def __call__(self, hq: NDArray[np.uint8], seed: int, *, key: str = "", variant: int = 0) -> Pair:
        """Degrades `hq` (RGB uint8 (H, W, 3)). The same (seed, key, variant) gives the same bytes, anywhere.

        Raises ValueError if `hq` is not RGB uint8, is too small, or its sides are no multiple of the scale.
        """
        hq = self._checked(hq)
        return self._apply(hq, self.draw(hq.shape[0], hq.shape[1], seed, key=key, variant=variant))

    def draw(self, height: int, width: int, seed: int, *, key: str = "", variant: int = 0) -> Record:
        """The record for an image of this size; `replay` applies it. Draws only: no pixel is touched."""
        rng = sample_generator(seed, key, variant)
        drawn = self.section.draw(rng, height, width, self.scale)
        return Record.of(self, seed, key, variant, height, width, drawn)

    def replay(self, hq: NDArray[np.uint8], record: Mapping[str, Any]) -> Pair:
        """The pair `record` came from, bit for bit. Raises ValueError if the record does not fit `hq` or this task."""
        hq = self._checked(hq)
        parsed = parse(Record, record, "record")
        if (parsed.degradation, parsed.scale) != (self.section.name, self.scale):
            raise ValueError(
                f"the record is of {parsed.degradation!r} x{parsed.scale}, this is {self.section.name!r} "
                f"x{self.scale}; replay it with build({parsed.degradation!r}, scale={parsed.scale})"
            )
        if parsed.version != RECORD_VERSION:
            raise ValueError(f"record.version is {parsed.version}; this code replays version {RECORD_VERSION}")
        if (parsed.height, parsed.width) != hq.shape[:2]:
            raise ValueError(
                f"the record is of an image of {parsed.width}x{parsed.height} pixels, hq has "
                f"{hq.shape[1]}x{hq.shape[0]}; give the HQ it was made with"
            )
        return self._apply(hq, parsed)

    def _checked(self, hq: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return check_hq(hq, multiple=self.scale, minimum=MIN_LQ_SIDE * self.scale)

    def _apply(self, hq: NDArray[np.uint8], record: Record) -> Pair:
        target = to_uint8(apply_steps(hq, record.hq_steps))
        lq = to_uint8(apply_steps(hq, record.steps))
        if lq.shape != (record.height // self.scale, record.width // self.scale, 3):  # only a stored LQ can be wrong
            raise ValueError(
                f"the LQ of {record.key!r} is {lq.shape[1]}x{lq.shape[0]} pixels; it no longer fits its HQ"
            )
        mask = None
        if record.mask is not None:
            mask = paint_mask(record.height, record.width, record.mask)
            lq = blacked_out(lq, mask)
        return Pair(hq=target, lq=lq, mask=mask, record=record.model_dump(mode="json"))
