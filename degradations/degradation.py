"""A degradation: draws a record for an image, and makes the LQ that a record describes.

`degrade(hq, seed)` is draw then make, `replay(hq, record)` is make alone: a replay is bit-identical by construction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degradations.arrays import check_rgb, to_uint8
from degradations.masks import Shape, blacked_out, paint_mask
from degradations.record import Pair, Record, parse_record
from degradations.sections import Section
from degradations.seeding import sample_generator
from degradations.steps import Step, apply_steps

MIN_LQ_SIDE = 8


class TaskSection(Section):
    """Base of the configuration of a task."""

    name: str


class Degradation(ABC):
    """Makes LQ images out of HQ images of one configuration and scale. Made by `build`; holds no state."""

    def __init__(self, section: TaskSection, scale: int) -> None:
        self.section = section
        self.scale = scale

    def __call__(self, hq: NDArray[np.uint8], seed: int, *, key: str = "", variant: int = 0) -> Pair:
        """Degrades `hq` (RGB uint8 (H, W, 3)). The same (seed, key, variant) gives the same bytes.

        Raises ValueError if `hq` is not RGB uint8, is too small, or its sides are no multiple of the scale.
        """
        hq = check_hq(hq, self.scale)
        return self._make(hq, self.draw(hq.shape[0], hq.shape[1], seed, key=key, variant=variant))

    @abstractmethod
    def draw(self, height: int, width: int, seed: int, *, key: str = "", variant: int = 0) -> Record:
        """The record for an image of this size; `replay` applies it. Draws only: no pixel is touched."""

    def replay(self, hq: NDArray[np.uint8], record: Mapping[str, Any]) -> Pair:
        """The pair `record` came from, bit for bit. Raises ValueError if the record does not fit `hq` or this task."""
        hq = check_hq(hq, self.scale)
        parsed = parse_record(record)
        if (parsed.degradation, parsed.scale) != (self.section.name, self.scale):
            raise ValueError(
                f"the record is of {parsed.degradation!r} x{parsed.scale}, this is {self.section.name!r} "
                f"x{self.scale}; replay it with build({parsed.degradation!r}, scale={parsed.scale})"
            )
        if (parsed.height, parsed.width) != hq.shape[:2]:
            raise ValueError(
                f"the record is of an image of {parsed.width}x{parsed.height} pixels, hq has "
                f"{hq.shape[1]}x{hq.shape[0]}; give the HQ it was made with"
            )
        return self._make(hq, parsed)

    @abstractmethod
    def _make(self, hq: NDArray[np.uint8], record: Record) -> Pair:
        """The pair that `record` describes, of a checked `hq`."""


class Drawn(NamedTuple):
    """What a section draws for one image; the fields as in `Record`."""

    steps: tuple[Step, ...] = ()
    hq_steps: tuple[Step, ...] = ()
    mask: tuple[Shape, ...] | None = None


class DrawnSection(TaskSection, ABC):
    """Base of the configuration of a task that makes its LQ: its ranges, and how to draw from them."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, height: int, width: int, scale: int) -> Drawn:
        """What to do with one image of `height` x `width` pixels, every parameter drawn from `rng`."""


class DrawnDegradation(Degradation):
    """A Degradation whose section draws steps, and maybe a mask, for every sample."""

    section: DrawnSection

    def __init__(self, section: DrawnSection, scale: int) -> None:
        super().__init__(section, scale)

    def draw(self, height: int, width: int, seed: int, *, key: str = "", variant: int = 0) -> Record:
        rng = sample_generator(seed, key, variant)
        drawn = self.section.draw(rng, height, width, self.scale)
        return Record(
            degradation=self.section.name,
            scale=self.scale,
            seed=seed,
            key=key,
            variant=variant,
            height=height,
            width=width,
            steps=drawn.steps,
            hq_steps=drawn.hq_steps,
            mask=drawn.mask,
        )

    def _make(self, hq: NDArray[np.uint8], record: Record) -> Pair:
        target = to_uint8(apply_steps(hq, record.hq_steps))
        lq = to_uint8(apply_steps(hq, record.steps))
        mask = None
        if record.mask is not None:
            mask = paint_mask(record.height, record.width, record.mask)
            lq = blacked_out(lq, mask)
        return Pair(hq=target, lq=lq, mask=mask, record=record.to_json())


def check_hq(hq: object, scale: int) -> NDArray[np.uint8]:
    """`hq` if a degradation of `scale` can take it: RGB uint8, sides multiples of `scale`, LQ of 8 pixels at least."""
    return check_rgb(hq, "hq", multiple=scale, minimum=MIN_LQ_SIDE * scale)
