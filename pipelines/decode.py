"""Bytes of an image file -> uint8 RGB, or the reason why not."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Damaged and hostile files must become rejects: PIL raises on decompression bombs above twice this many pixels.
Image.MAX_IMAGE_PIXELS = 256 << 20


class Rejected(ValueError):
    """An input that is left out; `reason` is one of the words that a dataset counts."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode to uint8 (H, W, 3) RGB, upright by EXIF. Gray, palette, CMYK and 16-bit are converted; alpha on white.

    Raises Rejected with reason `unreadable`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("I;16", "I;16B", "I;16L", "I"):
                return _gray16_to_rgb(np.asarray(upright))
            if upright.has_transparency_data:
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            return np.asarray(upright.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # PIL raises SyntaxError and ValueError, too, for files that are damaged in odd ways.
        raise Rejected("unreadable", f"{type(error).__name__}: {error}") from error


def _gray16_to_rgb(gray: np.ndarray) -> np.ndarray:
    eight_bit = np.clip(np.rint(gray.astype(np.float64) / 257.0), 0, 255).astype(np.uint8)
    return np.repeat(eight_bit[..., None], 3, axis=2)
