"""The recipe's `shards` section. (`autoencoder` is in pipelines.autoencoder: this one must not import torch.)"""

from pydantic import BaseModel, ConfigDict, Field


class ShardsConfig(BaseModel):
    """How sources become samples and samples become shards."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hq_size: int = Field(strict=True, default=256, ge=16, le=4096, multiple_of=8)
    """Side of the square HQ crop, in pixels."""
    samples_per_shard: int = Field(strict=True, default=1000, ge=1)
    """Planned samples in one shard (the last shard may hold fewer)."""
    variants: int = Field(strict=True, default=1, ge=1)
    """How many differently cropped and degraded samples come from one source image."""
    horizontal_flip_prob: float = Field(default=0.5, ge=0, le=1)
    """Probability that a crop is mirrored."""
    seed: int = Field(strict=True, default=0, ge=0)
    """Seed of everything random in the dataset."""
    max_reject_rate: float = Field(default=0.01, ge=0, le=1)
    """Largest share of planned samples that may be rejected before the job fails."""
