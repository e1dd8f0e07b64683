"""Image files of any common kind as uint8 RGB, and back with what the kind had (gray, alpha, colour profile).

Shapes: rgb uint8 (H, W, 3); alpha uint8 (H, W).
"""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class LoadedImage:
    """An upright image as RGB, and what is needed to write its restored version in the same kind."""

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    is_gray: bool = False
    icc_profile: bytes | None = None
    notes: tuple[str, ...] = field(default=())
    """What was lost in reading, in words for the user."""


def is_image_name(name: str) -> bool:
    """True if the name ends like an image file."""
    return name.lower().endswith(SUFFIXES)


def decode(data: bytes) -> LoadedImage:
    """Decode an encoded image: EXIF orientation applied, gray and palette expanded to RGB, 16 bits scaled to 8.

    Raises ValueError in one line if the bytes are no complete image of a kind that is supported.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            frames = getattr(opened, "n_frames", 1)
            opened.load()
            icc_profile = opened.info.get("icc_profile")
            image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise ValueError("is not an image (or of a kind that is not supported)") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"is damaged or cut off ({' '.join(str(error).split())})") from error
    notes = [f"only the first of {frames} frames is used"] if frames > 1 else []
    if image.mode.startswith("I"):
        notes.append("16 bits are reduced to 8")
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.mode == "F":
        raise ValueError("holds 32-bit floating-point samples, which are not supported; convert it to 8 or 16 bits")
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        is_gray = image.mode in ("L", "LA", "La")
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
    else:
        is_gray = image.mode in ("L", "1")
    # A profile describes the samples as stored: it does not survive a change of colour model (CMYK, palette).
    keep_profile = is_gray or image.mode in ("RGB", "RGBA")
    rgb = np.array(image.convert("RGB"))
    return LoadedImage(rgb, alpha, is_gray, icc_profile if keep_profile else None, tuple(notes))


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode to uint8 RGB (H, W, 3), alpha dropped. Raises ValueError."""
    return decode(data).rgb


def decode_mask(data: bytes) -> np.ndarray:
    """Decode a mask: bool (H, W), true where the image is brighter than half. Raises ValueError."""
    return decode(data).rgb.max(axis=2) >= 128


def encode_png(rgb: np.ndarray, like: LoadedImage | None = None) -> bytes:
    """Encode uint8 (H, W, 3) as PNG; `like` brings back gray, the alpha channel (resized to fit) and the profile."""
    image = Image.fromarray(rgb)
    if like is not None and like.is_gray:
        image = image.convert("L")
    if like is not None and like.alpha is not None:
        image.putalpha(Image.fromarray(like.alpha).resize(image.size, Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4, icc_profile=like.icc_profile if like else None)
    return buffer.getvalue()


def _eight_bits(samples: np.ndarray) -> np.ndarray:
    """Integer samples of 16 bits (or less) to uint8, rounded to nearest."""
    return np.rint(samples.astype(np.float64).clip(0, 65535) / 257.0).astype(np.uint8)
