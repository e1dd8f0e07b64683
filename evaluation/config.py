"""The `evaluation` and `promotion` sections of a recipe."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from evaluation.metrics import METRICS


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _known_metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"metric '{name}' is unknown; valid metrics: {', '.join(METRICS)}")
    return name


class EvaluationConfig(_Section):
    """What is measured and how. Everything that can change a figure goes into the frozen protocol."""

    metrics: tuple[str, ...] = ("psnr", "psnr_y", "ssim_y", "ms_ssim_y", "lpips_alex", "lpips_vgg")
    """Metrics of each image, by name."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampler's noise; each image derives its own from it and its sample key."""
    max_images: PositiveInt | None = None
    """Evaluate only the first so many images, in key order; null evaluates all."""
    tile_size: Annotated[int, Field(ge=64)] = 512
    """Side of a tile in output pixels; larger images are restored tile by tile."""
    tile_overlap: Annotated[int, Field(ge=0)] = 64
    """Overlap of neighbouring tiles in output pixels, over which they are blended."""
    batch_size: PositiveInt = 1
    """Images (or tiles) of one size that go through the networks together. Figures differ by rounding at most."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the networks. restore and served models take bfloat16 where they gain from it."""
    compare_to_champion: bool = True
    """Also show the version that holds the alias `champion`, if the model is registered and there is one: the rows of
    its own evaluation under the same protocol, or measured anew if there is none or a gate asks for the runtime."""
    images_per_shard: PositiveInt = 16
    """Images per unit of work when the test set is a folder pair (a dataset brings its own shards)."""
    bootstrap_resamples: Annotated[int, Field(ge=1000)] = 10_000
    """Resamples behind each confidence interval."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Level of the confidence intervals."""
    save_restored: bool = True
    """Write each restored image as PNG beside the rows."""
    report_images: Annotated[int, Field(ge=0)] = 16
    """Images shown in the report: the worst cases first, and the best ones."""
    report_megabytes: PositiveFloat = 30.0
    """Largest size of the images in the report, which are lossless; fewer are shown if they do not fit."""
    report_image_size: Annotated[int, Field(ge=64)] = 512
    """Largest side of an image in the report in pixels; the middle of a larger one is shown."""

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("give at least one metric, and each one once")
        return tuple(_known_metric(name) for name in value)

    @model_validator(mode="after")
    def _check_tiles(self) -> "EvaluationConfig":
        if self.tile_overlap > self.tile_size // 2:
            raise ValueError(f"tile_overlap is {self.tile_overlap}; give at most half of tile_size ({self.tile_size})")
        return self


class Gate(_Section):
    """One requirement: the improvement over a reference must exceed a bound, with its whole interval."""

    metric: str
    """Metric that is compared."""
    min_improvement: float = 0.0
    """The improvement must be above this: 0 asks for better, -0.2 for at most 0.2 worse (in the metric's unit)."""
    over: Literal["champion", "bicubic"] = "champion"
    """What to improve on; `champion` means bicubic as long as there is no champion."""
    bound: Literal["interval", "mean"] = "interval"
    """What must exceed `min_improvement`: the low end of the confidence interval (sure), or the mean (likely)."""

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, value: str) -> str:
        return _known_metric(value)


class PromotionConfig(_Section):
    """What a version must show before it becomes the champion."""

    gates: tuple[Gate, ...] = (
        Gate(metric="lpips_alex", min_improvement=0.0),
        Gate(metric="psnr_y", min_improvement=-0.2),
    )
    """Requirements on the metrics; all must pass."""
    min_images: PositiveInt = 50
    """Fewest test images a decision may rest on."""
    min_photos: PositiveInt = 10
    """Fewest photos those images may stem from. Images of one photo are not independent, so photos are what the
    interval resamples, and with few of them it is too narrow: a model that is no better passes a gate with bound
    `interval` in about 25 % of all cases with 2 photos, 8 % with 6 and 5 % with 10, where 2.5 % are meant."""
    max_failed_images: Annotated[int, Field(ge=0)] = 0
    """Most test images that may have failed to be read or restored."""
    max_runtime_ratio: PositiveFloat | None = None
    """Most seconds per megapixel relative to the champion, measured in one evaluation; null does not ask."""
