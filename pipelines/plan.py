"""The plan of a pair dataset: it fixes beforehand every sample's image, crop, flip and degradation seed.

Which shard holds what follows from three things: the order of the source's images (a shuffle with the dataset's seed),
`variants`, and `samples_per_shard`. Variants of one image are neighbours, so that it is decoded once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from degradations import build
from degradations.builder import parse_section
from degradations.degradation import MIN_LQ_SIDE
from degradations.paired import PairedSection
from degradations.record import RECORD_VERSION
from infra.errors import UsageError
from infra.recipe import Recipe, digest
from pipelines.codec import CODEC
from pipelines.config import ShardsConfig
from pipelines.dataset import SCHEMA_VERSION
from pipelines.source import Source, SourceImage, list_images, list_source
from pipelines.source_pairs import match_lq
from pipelines.source_place import check_outside, check_tars

FITTING = {
    "super_resolution": ("realesrgan", "bsrgan", "bicubic", "paired"),
    "face_restoration": ("face", "realesrgan", "bsrgan", "paired"),
    "deblurring": ("deblurring", "paired"),
    "inpainting": ("inpainting",),
}
"""Task of a recipe -> degradations that make its pairs."""


@dataclass(frozen=True)
class PairPlan:
    """Everything a worker needs besides its shard number and its images."""

    url: str
    scale: int
    shards: ShardsConfig
    degradation: dict[str, Any]
    num_samples: int
    """Planned in the whole dataset."""

    @property
    def num_shards(self) -> int:
        return -(-self.num_samples // self.shards.samples_per_shard)

    def samples_of(self, shard: int) -> range:
        """The samples of a shard; sample i is variant i % variants of the (i // variants)-th image in plan order."""
        first = shard * self.shards.samples_per_shard
        return range(first, min(first + self.shards.samples_per_shard, self.num_samples))


@dataclass(frozen=True)
class PlannedDataset:
    """The plan with its source, and the document that becomes dataset.json."""

    plan: PairPlan
    source: Source
    order: np.ndarray
    """Plan order: places in the listing."""
    document: dict[str, Any]

    def images_of(self, shard: int) -> list[SourceImage]:
        """The images that the samples of a shard come from, each once, in plan order."""
        samples, variants = self.plan.samples_of(shard), self.plan.shards.variants
        return self.source.images(self.order[samples[0] // variants : samples[-1] // variants + 1])


def plan_pairs(recipe: Recipe, source: str, out: str) -> PlannedDataset:
    """List the source and fix the plan. Nothing is written. Raises UsageError for what does not fit together."""
    shards = recipe.section("shards", ShardsConfig)
    section = _degradation(recipe)
    _check_size(shards.hq_size, recipe.scale)
    check_outside(out, source, "--source")
    resolved = {"shards": shards.model_dump(mode="json"), "degradation": section.model_dump(mode="json")}
    if isinstance(section, PairedSection):
        check_outside(out, section.lq_dir, "degradation.lq_dir")
        listed = match_lq(list_images(source), section.lq_dir)
        degradation: dict[str, Any] = {"name": section.name}  # where the LQ images lie does not change them
    else:
        listed, degradation = list_source(source), resolved["degradation"]
    check_tars(out, listed)
    plan = PairPlan(out, recipe.scale, shards, degradation, listed.num_images * shards.variants)
    identity = {
        "kind": "pairs",
        "task": recipe.task,
        "scale": recipe.scale,
        "degradation": degradation,
        "record_version": RECORD_VERSION,
        "shards": shards.model_dump(mode="json", exclude={"max_reject_rate"}),
        "source": {"digest": listed.digest, "num_images": listed.num_images},
        "codec": CODEC,
    }
    document = {
        "schema_version": SCHEMA_VERSION,
        "identity": identity,
        "plan_hash": digest(identity),
        "num_shards": plan.num_shards,
        "num_samples_planned": plan.num_samples,
        "source_uri": source,
        "recipe": {**recipe.raw, **resolved},
    }
    return PlannedDataset(plan, listed, image_order(listed.num_images, shards.seed), document)


def image_order(num_images: int, seed: int) -> np.ndarray:
    """A fixed shuffle, so that neighbouring shards do not hold one folder or class each."""
    return np.random.Generator(np.random.SFC64(seed)).permutation(num_images)


def _check_size(hq_size: int, scale: int) -> None:
    """Raise UsageError for crops that no degradation of this scale takes."""
    if hq_size % scale:
        raise UsageError(f"shards.hq_size: {hq_size} is not a multiple of scale {scale}; change one")
    if hq_size < MIN_LQ_SIDE * scale:
        raise UsageError(
            f"shards.hq_size: {hq_size} leaves LQ images of {hq_size // scale} pixels at scale {scale}, and they need "
            f"{MIN_LQ_SIDE}; give {MIN_LQ_SIDE * scale} at least"
        )


def _degradation(recipe: Recipe) -> Any:
    """The section with its defaults filled in, checked against task and scale."""
    values = recipe.raw.get("degradation", {})
    try:
        section = parse_section(values)
        if isinstance(section, PairedSection):
            if section.hq_dir is not None:
                raise UsageError("degradation.hq_dir: the HQ images are those of --source; remove it")
        else:
            build(values, scale=recipe.scale)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    if section.name not in FITTING[recipe.task]:
        raise UsageError(
            f"degradation.name: '{section.name}' makes no pairs for task '{recipe.task}'; choose one of "
            f"{', '.join(FITTING[recipe.task])}, or change the task"
        )
    return section
