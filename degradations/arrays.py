"""Checks of what a user hands in, and the way between uint8 images and float32 gray levels."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def to_uint8(image: NDArray) -> NDArray[np.uint8]:
    """Rounds (half to even) and clips gray levels to uint8."""
    if image.dtype == np.uint8:
        return image
    # two vectorised passes; rounding and clipping at 255 are convertScaleAbs's own
    return np.asarray(cv2.convertScaleAbs(cv2.threshold(image, 0, 0, cv2.THRESH_TOZERO)[1]), dtype=np.uint8)


def to_float32(image: NDArray) -> NDArray[np.float32]:
    """`image` as contiguous float32 gray levels; itself if it is that already."""
    return np.ascontiguousarray(image, dtype=np.float32)


def check_rgb(image: object, name: str, *, multiple: int = 1, minimum: int = 1) -> NDArray[np.uint8]:
    """Returns `image` if it is RGB uint8 (H, W, 3), sides a multiple of `multiple` and at least `minimum` pixels.

    Raises ValueError that calls it `name` and says what is wrong and how to mend it.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{name} is a {type(image).__name__}; give a numpy array, e.g. numpy.asarray(pil_image)")
    if image.size == 0:
        raise ValueError(f"{name} is empty (shape {image.shape}); give an image with pixels")
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise ValueError(
            f"{name} is gray (shape {image.shape}); make it three channels: cv2.cvtColor({name}, cv2.COLOR_GRAY2RGB)"
        )
    if image.ndim != 3:
        raise ValueError(f"{name} has shape {image.shape}; give one image at a time, (height, width, 3)")
    if image.shape[2] == 4:
        raise ValueError(f"{name} has an alpha channel (shape {image.shape}); drop it: {name}[..., :3]")
    if image.shape[2] != 3:
        raise ValueError(f"{name} has shape {image.shape}; give RGB with the channels last, (height, width, 3)")
    if image.dtype != np.uint8:
        raise ValueError(f"{name} is {image.dtype}; give uint8 in 0..255: {_remedy(image)}")
    height, width = image.shape[:2]
    if min(height, width) < minimum:
        raise ValueError(f"{name} is {width}x{height} pixels; the shorter side needs at least {minimum}: leave it out")
    if height % multiple or width % multiple:
        raise ValueError(
            f"{name} is {width}x{height} pixels, not a multiple of the scale {multiple}; "
            f"crop it to {width - width % multiple}x{height - height % multiple}"
        )
    return np.ascontiguousarray(image)


def _remedy(image: NDArray) -> str:
    if np.issubdtype(image.dtype, np.floating):
        if not np.isfinite(image).all():
            return "it also holds NaN or infinity, so look at where it comes from first"
        return "(image * 255).round().clip(0, 255).astype('uint8') if it lies in 0..1"
    if image.dtype == np.uint16:
        return "(image // 257).astype('uint8') for 16-bit images"
    if image.dtype == np.bool_:
        return "image.astype('uint8') * 255"
    return "convert it with astype('uint8') once its values lie in 0..255"
