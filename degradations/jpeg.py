"""JPEG compression by libjpeg-turbo with its defaults: 4:2:0 chroma, accurate integer DCT, smooth chroma upsampling.

OpenCV encodes and simplejpeg decodes: the quickest of each, and pixel for pixel what Pillow's codec gives.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from degradations.arrays import to_uint8


def jpeg_bytes(image: NDArray[np.uint8], quality: int) -> bytes:
    """Encodes RGB uint8 (H, W, 3) at `quality` 1..100."""
    if not 1 <= quality <= 100:
        raise ValueError(f"jpeg quality is {quality}; it must lie in 1..100")
    chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *chroma]
    encoded, buffer = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert encoded
    return buffer.tobytes()


def jpeg(image: NDArray, quality: int) -> NDArray[np.uint8]:
    """Compresses and decompresses `image` (H, W, 3), uint8 or float32 gray levels (rounded and clipped first)."""
    encoded = jpeg_bytes(to_uint8(image), quality)
    return simplejpeg.decode_jpeg(encoded, colorspace="RGB", fastdct=False, fastupsample=False)
