"""The autoencoder's hyperparameters; field names and meaning are those of the official `autoencoder.params`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from resshift.normalization import NORM_GROUPS


@dataclass(frozen=True)
class VQGANConfig:
    """The `autoencoder.network` section of a recipe. Defaults are the full-size f4 network (55.32 M parameters)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    embed_dim: int = 3
    """Channels of a latent and of a code."""

    n_embed: int = 8192
    """Number of codes."""

    ch: int = 128
    """Width of the first level; times each ch_mult it must be a multiple of norm_groups."""

    ch_mult: tuple[int, ...] = (1, 2, 4)
    """Width of each level as a multiple of ch. L levels downscale by 2^(L-1): 3 for f4, 4 for f8."""

    num_res_blocks: int | tuple[int, ...] = 2
    """Residual blocks of each level, or one number for all."""

    z_channels: int = 3
    """Channels between encoder (or decoder) and the pointwise layers around the codebook."""

    attn_resolutions: tuple[int, ...] = ()
    """Sides, at the designed size, of the levels with attention in every block (the innermost always has one)."""

    resolution: int = 256
    """Side of the images the network is designed for; it only decides which levels attn_resolutions names."""

    in_channels: int = 3
    """Channels of the image."""

    out_ch: int = 3
    """Channels of the decoded image."""

    dropout: float = 0.0
    """Dropout probability, in [0, 1)."""

    norm_groups: int = NORM_GROUPS
    """Groups of every normalisation; narrow networks want fewer, so that 4 or more channels share one."""

    def __post_init__(self) -> None:
        for name in ("ch_mult", "attn_resolutions", "num_res_blocks"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for name in ("embed_dim", "n_embed", "ch", "z_channels", "resolution", "in_channels", "out_ch", "norm_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a whole number of at least 1")
        if not self.ch_mult or min(self.ch_mult) < 1:
            raise ValueError(f"ch_mult is {self.ch_mult}; give one whole number of at least 1 per level")
        blocks = self.res_blocks_per_level
        if len(blocks) != len(self.ch_mult) or min(blocks) < 1:
            raise ValueError(
                f"num_res_blocks is {self.num_res_blocks}; give one number of at least 1, or one for each of the "
                f"{len(self.ch_mult)} levels of ch_mult"
            )
        for width in self.widths:
            if width % self.norm_groups:
                raise ValueError(
                    f"ch is {self.ch}; times each of ch_mult it must be a multiple of norm_groups ({self.norm_groups})"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; give a probability in [0, 1)")

    @property
    def res_blocks_per_level(self) -> tuple[int, ...]:
        """num_res_blocks, one entry per level."""
        if isinstance(self.num_res_blocks, int):
            return (self.num_res_blocks,) * len(self.ch_mult)
        return self.num_res_blocks

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.ch * mult for mult in self.ch_mult)

    @property
    def attention_per_level(self) -> tuple[bool, ...]:
        """Whether each level has attention in every block."""
        return tuple(self.resolution // 2**level in self.attn_resolutions for level in range(len(self.ch_mult)))

    @property
    def downscale(self) -> int:
        """How many times smaller than the image a latent is."""
        return 2 ** (len(self.ch_mult) - 1)

    @classmethod
    def from_official(cls, params: Mapping[str, Any]) -> VQGANConfig:
        """Translate the official YAML's `autoencoder.params`: embed_dim, n_embed and ddconfig.

        Raises:
            ValueError: a parameter is unknown, or asks for what no published autoencoder uses.
        """
        flat = {**{k: v for k, v in params.items() if k != "ddconfig"}, **params.get("ddconfig", {})}
        only_supported = {
            "double_z": False,
            "padding_mode": "zeros",
            "resamp_with_conv": True,
            "tanh_out": False,
            "give_pre_end": False,
            "use_linear_attn": False,
            "attn_type": "vanilla",
            "remap": None,
            "sane_index_shape": False,
        }
        for name, supported in only_supported.items():
            value = flat.pop(name, supported)
            if value != supported:
                raise ValueError(f"{name} is {value!r} in the official parameters; only {supported!r} is supported")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(flat) - known)
        if unknown:
            raise ValueError(f"official parameters {unknown} are not known; known are {sorted(known)}")
        return cls(**flat)
