"""The denoiser's hyperparameters; field names and meaning are those of the official `model.params`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from resshift.normalization import NORM_GROUPS


@dataclass(frozen=True)
class SwinUNetConfig:
    """The `denoiser` section of a recipe. Defaults are the full-size real-world x4 network (118.59 M parameters)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    image_size: int = 64
    """Side of x_t the network is designed for; it decides which levels have attention, not which sizes it takes."""

    in_channels: int = 3
    """Channels of x_t: those of the latent, or 3 in pixel space."""

    out_channels: int = 3
    """Channels of the predicted x_0; equal to in_channels."""

    model_channels: int = 160
    """Width of the first level; times each channel_mult it must be a multiple of norm_groups."""

    channel_mult: tuple[int, ...] = (1, 2, 2, 4)
    """Width of each level as a multiple of model_channels; one entry per level, each level half the size."""

    num_res_blocks: int | tuple[int, ...] = 2
    """Residual blocks of each level, or one number for all."""

    attention_resolutions: tuple[int, ...] = (64, 32, 16, 8)
    """Sides, at the designed size, of the levels that have window attention (the innermost always has)."""

    swin_depth: int = 2
    """Swin blocks of each attention layer; every second one is shifted."""

    swin_embed_dim: int = 192
    """Width inside the attention layers; a multiple of norm_groups and of num_head_channels."""

    num_head_channels: int = 32
    """Channels of one attention head."""

    window_size: int = 8
    """Side of an attention window."""

    mlp_ratio: float = 4.0
    """Hidden width of the Swin MLPs as a multiple of swin_embed_dim."""

    patch_norm: bool = False
    """Whether the projections in and out of the attention layers are normalised."""

    use_scale_shift_norm: bool = True
    """Whether the step embedding scales and shifts the features, or is only added to them."""

    dropout: float = 0.0
    """Dropout probability, in [0, 1)."""

    lq_size: int = 64
    """Side of the LQ condition at the designed size: image_size times a power of two."""

    norm_groups: int = NORM_GROUPS
    """Groups of every normalisation; narrow networks want fewer, so that 4 or more channels share one."""

    cond_mask: bool = False
    """Whether an inpainting mask is given along with the LQ image."""

    def __post_init__(self) -> None:
        for name in ("channel_mult", "attention_resolutions", "num_res_blocks"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        self._check_ranges()
        self._check_divisibility()

    def _check_ranges(self) -> None:
        for name in (
            "image_size",
            "in_channels",
            "out_channels",
            "model_channels",
            "swin_depth",
            "swin_embed_dim",
            "num_head_channels",
            "window_size",
            "norm_groups",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a whole number of at least 1")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult is {self.channel_mult}; give one whole number of at least 1 per level")
        blocks = self.res_blocks_per_level
        if len(blocks) != len(self.channel_mult) or min(blocks) < 1:
            raise ValueError(
                f"num_res_blocks is {self.num_res_blocks}; give one number of at least 1, or one for each of the "
                f"{len(self.channel_mult)} levels of channel_mult"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; give a probability in [0, 1)")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}; give a number above 0")

    def _check_divisibility(self) -> None:
        if self.image_size % self.size_multiple:
            raise ValueError(
                f"image_size is {self.image_size}; {len(self.channel_mult)} levels need a multiple of "
                f"{self.size_multiple}"
            )
        for mult in self.channel_mult:
            if self.model_channels * mult % self.norm_groups:
                raise ValueError(
                    f"model_channels is {self.model_channels}; times channel_mult {mult} it must be a multiple of "
                    f"norm_groups ({self.norm_groups})"
                )
        for divisor in (self.norm_groups, self.num_head_channels):
            if self.swin_embed_dim % divisor:
                raise ValueError(f"swin_embed_dim is {self.swin_embed_dim}; it must be a multiple of {divisor}")
        factor, rest = divmod(self.lq_size, self.image_size)
        if rest or factor < 1 or factor & (factor - 1):
            raise ValueError(
                f"lq_size is {self.lq_size}; give image_size ({self.image_size}) times a power of two (1, 2, 4, ...)"
            )

    @property
    def res_blocks_per_level(self) -> tuple[int, ...]:
        """num_res_blocks, one entry per level."""
        if isinstance(self.num_res_blocks, int):
            return (self.num_res_blocks,) * len(self.channel_mult)
        return self.num_res_blocks

    @property
    def size_multiple(self) -> int:
        """x_t is padded inside the network to a multiple of this: every level halves the size."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def lq_factor(self) -> int:
        """How many times larger than x_t the LQ condition is."""
        return self.lq_size // self.image_size

    @classmethod
    def from_official(cls, params: Mapping[str, Any]) -> SwinUNetConfig:
        """Translate the official YAML's `model.params`.

        Raises:
            ValueError: a parameter is unknown, or asks for what no published network uses.
        """
        params = dict(params)
        num_heads = params.pop("num_heads", 1)
        if params.get("num_head_channels", -1) == -1:
            params["num_head_channels"] = params.get("swin_embed_dim", 96) // num_heads
        params.pop("use_fp16", None)  # the precision of a forward pass, not of the network
        for name, supported in {"dims": 2, "conv_resample": True, "resblock_updown": False, "cond_lq": True}.items():
            value = params.pop(name, supported)
            if value != supported:
                raise ValueError(f"{name} is {value!r} in the official parameters; only {supported!r} is supported")
        # The original's defaults where they differ from ours.
        defaults = {"use_scale_shift_norm": False, "mlp_ratio": 2.0, "swin_embed_dim": 96, "lq_size": 256}
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(params) - known)
        if unknown:
            raise ValueError(f"official parameters {unknown} are not known; known are {sorted(known)}")
        return cls(**{**defaults, **params})
