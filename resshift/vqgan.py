"""The autoencoder: image to latent, latent to code, code to image.

B batch, H and W image height and width, f = `downscale`, D = `embed_dim`; a latent is (B, D, ceil(H / f), ceil(W / f)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resshift.normalization import regroup
from resshift.padding import pad_bottom_right, round_up
from resshift.quantizer import VectorQuantizer
from resshift.state_dict import load_strictly, official_weights
from resshift.vqgan_blocks import Decoder, Encoder
from resshift.vqgan_config import VQGANConfig


class VQGAN(nn.Module):
    """Encodes images in [-1, 1] to latents, and decodes latents through a codebook.

    `vqgan.quantize(z)` returns (z_q, indices, commit_loss), see `VectorQuantizer`.
    """

    def __init__(self, config: VQGANConfig, latent_scale: float = 1.0) -> None:
        """
        Args:
            latent_scale: what the denoiser's latents are multiplied with to have about unit variance, above 0. All
                latents of this class are raw; only `scale_latent` and `unscale_latent` apply it.
        """
        super().__init__()
        if not latent_scale > 0:
            raise ValueError(f"latent_scale is {latent_scale}; give a number above 0")
        self.config = config
        self.latent_scale = float(latent_scale)
        shape = (config.widths, config.res_blocks_per_level, config.attention_per_level, config.dropout)
        self.encoder = Encoder(config.in_channels, config.z_channels, *shape)
        self.decoder = Decoder(config.z_channels, config.out_ch, *shape)
        self.quantize = VectorQuantizer(config.n_embed, config.embed_dim)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        regroup(self, config.norm_groups)

    @classmethod
    def from_official(cls, params: Mapping[str, Any], state_dict: Mapping[str, Any]) -> VQGAN:
        """Rebuild an official network: `params` is the YAML's `autoencoder.params`, `state_dict` the checkpoint.

        Returns:
            The network in evaluation mode, float32, with a copy of the weights and latent_scale 1.

        Raises:
            ValueError: a parameter is unknown or unsupported, or a weight is missing, unexpected or of another shape.
        """
        config = VQGANConfig.from_official(params)
        with torch.device("meta"):
            vqgan = cls(config)
        return load_strictly(vqgan, official_weights(state_dict), "the VQGAN's state dict").eval()

    @property
    def downscale(self) -> int:
        """How many times smaller than the image a latent is: 4 for f4, 8 for f8."""
        return self.config.downscale

    def encode(self, x: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [-1, 1] to raw, unquantised latent (B, D, ceil(H / f), ceil(W / f)).

        A size that f does not divide is completed by mirroring at the bottom and right.
        """
        height, width = (round_up(size, self.downscale) for size in x.shape[2:])
        h = self.encoder(pad_bottom_right(x, height, width).to(self.quant_conv.weight.dtype))
        return self.quant_conv(h).to(x.dtype)

    def decode(self, z: Tensor, quantize: bool = True, size: tuple[int, int] | None = None) -> Tensor:
        """Raw latent (B, D, h, w) to image (B, 3, h * f, w * f), about [-1, 1] but not clamped.

        Args:
            quantize: replace the latent by its codes first, as the decoder was trained.
            size: (H, W) of the image that was encoded, to cut off what `encode` completed.
        """
        codes = self.quantize(z)[0] if quantize else z
        image = self.decoder(self.post_quant_conv(codes.to(self.quant_conv.weight.dtype))).to(z.dtype)
        return image if size is None else image[:, :, : size[0], : size[1]]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct x (B, 3, H, W): the image at the same size, and the commitment loss of its codes (a scalar)."""
        z_q, _, commit_loss = self.quantize(self.encode(x))
        return self.decode(z_q, quantize=False, size=(x.shape[2], x.shape[3])), commit_loss

    def scale_latent(self, z: Tensor) -> Tensor:
        """Raw latent to what the denoiser sees."""
        return z * self.latent_scale

    def unscale_latent(self, z: Tensor) -> Tensor:
        """What the denoiser predicts to a raw latent."""
        return z / self.latent_scale
