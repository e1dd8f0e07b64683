"""Images as tensors: the one place that knows the ranges and how an LQ image meets the sizes of the networks.

B batch, H and W height and width. Arrays are RGB (H, W, 3) of uint8, or of uint16 where an image has that many shades;
tensors are float32 (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def _half_range(dtype: np.dtype) -> float:
    """Half of the largest value of unsigned samples: what -1 to 1 is scaled by."""
    return float(np.iinfo(dtype).max) / 2.0


def check_image(image: np.ndarray) -> None:
    """ValueError unless an array is RGB (H, W, 3), uint8 or uint16, of at least 1 pixel."""
    if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"image is {image.dtype} {image.shape}; give a uint8 RGB array (H, W, 3) of at least 1 pixel (or uint16)"
        )


def image_to_tensor(image: np.ndarray) -> Tensor:
    """uint8 or uint16 RGB (H, W, 3) to float32 (1, 3, H, W) in [-1, 1].

    Raises:
        ValueError: the array is not such an image, or has no pixel.
    """
    check_image(image)
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]
    return pixels.float() / _half_range(image.dtype) - 1.0


def tensor_to_image(x: Tensor, dtype: np.dtype | type = np.uint8) -> np.ndarray:
    """Float (1, 3, H, W) or (3, H, W) in [-1, 1] to uint8 (or uint16) RGB (H, W, 3): rounded to nearest, clamped."""
    x = x[0] if x.ndim == 4 and len(x) == 1 else x
    if x.ndim != 3 or x.shape[0] != 3:
        raise ValueError(f"image has shape {tuple(x.shape)}; give (1, 3, H, W) or (3, H, W)")
    half = _half_range(np.dtype(dtype))
    pixels = ((x.detach().float() + 1.0) * half).round().clamp(0, 2 * half)
    samples = pixels.to(torch.uint8 if dtype == np.uint8 else torch.int32).permute(1, 2, 0).contiguous()
    return samples.cpu().numpy().astype(dtype, copy=False)


def unknown_pixels(mask: np.ndarray) -> np.ndarray:
    """A mask, uint8 (H, W) above 127 or bool (H, W) true where the image is unknown, as bool (H, W).

    Raises:
        ValueError: the array is no such mask, or one of 0 and 1, which would mark nothing.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.bool_):
        raise ValueError(f"mask has shape {mask.shape} ({mask.dtype}); give bool or uint8 (H, W), as the image")
    if mask.dtype == np.bool_:
        return mask
    if mask.size and mask.max() == 1:
        raise ValueError("mask holds 0 and 1; unknown pixels are above 127: multiply it by 255, or make it bool")
    return mask > 127


def mask_to_tensor(mask: np.ndarray) -> Tensor:
    """A mask as `unknown_pixels` takes it to float32 (1, 1, H, W) of -1 (known) and 1 (unknown)."""
    return torch.from_numpy(unknown_pixels(mask))[None, None].float() * 2.0 - 1.0


def upscale_lq(lq: Tensor, scale: int) -> Tensor:
    """Bicubic enlargement of lq (B, 3, h, w) to (B, 3, h * scale, w * scale): the image that y_0 stands for.

    Not clamped: overshoot stays, as in the method.
    """
    if scale == 1:
        return lq
    size = (lq.shape[2] * scale, lq.shape[3] * scale)
    return F.interpolate(lq, size=size, mode="bicubic", align_corners=False, antialias=False)


def fit_condition(lq: Tensor, size: tuple[int, int]) -> Tensor:
    """The LQ image at the size the denoiser wants its condition: lq (B, 3, h, w) to (B, 3, *size).

    Untouched where it has that size already, which is the rule (the official networks are built for it).
    """
    if tuple(lq.shape[2:]) == tuple(size):
        return lq
    smaller = size[0] < lq.shape[2]
    return F.interpolate(lq, size=size, mode="bicubic", align_corners=False, antialias=smaller)


def fit_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (B, 1, H, W) in [-1, 1] at the size of the denoiser's condition: (B, 1, *size)."""
    return mask if tuple(mask.shape[2:]) == tuple(size) else F.interpolate(mask, size=size, mode="area")
