"""An albumentations transform that takes pixels away: strokes, boxes, margins; black in the image, 1 in the mask."""

from __future__ import annotations

from typing import Annotated, Any

import albumentations as A
import numpy as np
from albumentations.core.transforms_interface import BaseTransformInitSchema
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray
from pydantic import AfterValidator, TypeAdapter

from degradations.inpainting import BoxSection, InpaintingSection, IrregularSection, MaskKind, OutpaintingSection
from degradations.masks import Shape, paint_mask
from degradations.sections import sums_to_one

_SHAPES = TypeAdapter(tuple[Shape, ...])
_DEFAULTS = InpaintingSection()


class TakeAway(A.DualTransform):
    """Makes pixels of the image black and sets them to 1 in the mask, which keeps its other values.

    Give `mask=numpy.zeros(image.shape[:2], numpy.uint8)` to get what is missing. Arguments as in `InpaintingSection`;
    the sections are mappings of what differs from their defaults.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    class InitSchema(BaseTransformInitSchema):
        kind_prob: Annotated[dict[MaskKind, float], AfterValidator(sums_to_one)]
        irregular: IrregularSection | None
        box: BoxSection | None
        outpainting: OutpaintingSection | None

    def __init__(
        self,
        kind_prob: dict[MaskKind, float] = _DEFAULTS.kind_prob,
        irregular: dict[str, Any] | None = None,
        box: dict[str, Any] | None = None,
        outpainting: dict[str, Any] | None = None,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.kind_prob = kind_prob
        self.irregular = irregular
        self.box = box
        self.outpainting = outpainting
        given = {"irregular": irregular, "box": box, "outpainting": outpainting}
        sections = {name: values for name, values in given.items() if values is not None}
        self._section = InpaintingSection(kind_prob=kind_prob, **sections)  # type: ignore[arg-type]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        drawn = self._section.draw(self.random_generator, height, width, 1)
        return {"shapes": [shape.model_dump(mode="json") for shape in drawn.mask or ()]}

    def apply(self, img: NDArray, shapes: list[dict[str, Any]], **params: Any) -> NDArray:
        return self._painted(img, shapes, 0)

    def apply_to_mask(self, mask: NDArray, shapes: list[dict[str, Any]], **params: Any) -> NDArray:
        return self._painted(mask, shapes, 1)

    def _painted(self, image: NDArray, shapes: list[dict[str, Any]], value: int) -> NDArray:
        missing = paint_mask(image.shape[0], image.shape[1], _SHAPES.validate_python(shapes)).astype(bool)
        out = np.array(image)
        out[missing] = value
        return out
