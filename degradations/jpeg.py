"""JPEG compression by libjpeg-turbo: 4:2:0 chroma, and the accurate integer DCT so that every machine agrees."""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from degradations.arrays import to_uint8


def jpeg_bytes(image: NDArray[np.uint8], quality: int) -> bytes:
    """Encodes RGB uint8 (H, W, 3) at `quality` 1..100."""
    if not 1 <= quality <= 100:
        raise ValueError(f"jpeg quality is {quality}; it must lie in 1..100")
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling="420", fastdct=False
    )


def jpeg(image: NDArray, quality: int) -> NDArray[np.uint8]:
    """Compresses and decompresses `image` (H, W, 3), uint8 or float32 gray levels (rounded and clipped first)."""
    encoded = jpeg_bytes(to_uint8(image), quality)
    # fastupsample repeats each chroma sample, as the method does, where libjpeg's default interpolates
    return simplejpeg.decode_jpeg(encoded, colorspace="RGB", fastdct=False, fastupsample=True)
