"""Bytes of an image file -> uint8 RGB, or the reason why not.

What is read: JPEG (gray, YCbCr, RGB, CMYK, YCCK), PNG, WebP, TIFF and BMP; palettes and one-bit images; gray and
colour of 8 or 16 bits. Images are turned upright as EXIF says, what is transparent is laid on white, 16 bits are
rounded to 8, of several pages or frames the first one counts. Colour profiles are not applied.
"""

import io
import warnings

import cv2
import numpy as np
import simplejpeg
import tifffile
from PIL import Image, UnidentifiedImageError

from resshift.image_files import DAMAGE, ORIENTATION, UPRIGHT

SAMPLES_PER_PIXEL = 277  # TIFF tag
BITS_PER_SAMPLE = 258
EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


class Rejected(ValueError):
    """An input that is left out; `reason` is one of the words that a dataset counts."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode to uint8 (H, W, 3) RGB. The array may be a view that is not contiguous.

    Raises Rejected with reason `unreadable` (damaged, or no image), `wrong_channels` (colour that has no defined way to
    RGB) or `too_large` (more pixels than Pillow takes for no attack: 178,956,970).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # half of the bound
            opened = Image.open(io.BytesIO(data))
        with opened:
            is_deep = _is_deep(opened)  # first of all: Pillow forgets it as soon as it loads the pixels
            is_turned = opened.format == "TIFF"  # by Pillow and OpenCV themselves
            turn = None if is_turned else UPRIGHT.get(opened.getexif().get(ORIENTATION, 1))
            pixels = _decode_deep(data, opened) if is_deep else _decode(data, opened)
    except UnidentifiedImageError as error:
        raise _unknown(data) from error
    except Image.DecompressionBombError as error:
        raise Rejected("too_large", str(error)) from error
    except Rejected:
        raise
    except DAMAGE as error:
        raise Rejected("unreadable", f"{type(error).__name__}: {error}") from error
    return turn(pixels) if turn else pixels


def _decode(data: bytes, opened: Image.Image) -> np.ndarray:
    if opened.format in ("JPEG", "MPO") and opened.mode in ("RGB", "L"):
        # The same pixels as Pillow's, several times faster for photos. It is strict: what is damaged raises ValueError.
        return simplejpeg.decode_jpeg(data, "RGB")
    tags = getattr(opened, "tag_v2", {})
    channels = tags.get(SAMPLES_PER_PIXEL, len(opened.getbands()))
    if opened.mode not in EIGHT_BIT_MODES or channels != len(opened.getbands()):
        raise Rejected("wrong_channels", f"{opened.format} of mode {opened.mode} with {channels} channels")
    if opened.has_transparency_data:
        rgba = opened.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    return np.asarray(opened.convert("RGB"))


def _is_deep(opened: Image.Image) -> bool:
    """True for 16 bits per sample. Pillow would drop the lower half of colours."""
    stored = " ".join(str(tile[3]) for tile in getattr(opened, "tile", ()))  # of a PNG: "RGB;16B"
    bits = getattr(opened, "tag_v2", {}).get(BITS_PER_SAMPLE, "")
    return opened.mode.startswith("I;16") or ";16" in stored or "16" in str(bits)


def _decode_deep(data: bytes, opened: Image.Image) -> np.ndarray:
    """16-bit gray, RGB or RGBA -> uint8 (H, W, 3), rounded to nearest."""
    opened.load()  # finds damage, which OpenCV may pass over
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise Rejected("unreadable", "16-bit samples that OpenCV cannot decode")
    if samples.ndim == 2:
        return np.repeat(_eight_bits(samples)[..., None], 3, axis=2)
    bgr = samples[..., :3]
    if samples.shape[2] == 4:
        alpha = samples[..., 3:] / np.float32(65535)
        bgr = np.rint(bgr * alpha + 65535 * (1 - alpha))
    return _eight_bits(bgr[..., ::-1])


def _eight_bits(samples: np.ndarray) -> np.ndarray:
    """0..65535 -> 0..255, to nearest: a 257th."""
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _unknown(data: bytes) -> Rejected:
    """Why Pillow does not know what this is. It also refuses TIFFs of many channels, which are not damaged."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        try:
            with tifffile.TiffFile(io.BytesIO(data)) as tiff:
                page = tiff.pages.first
                return Rejected("wrong_channels", f"TIFF with {page.samplesperpixel} channels of {page.dtype}")
        except Exception as error:  # whatever tifffile stumbles over in damaged bytes
            return Rejected("unreadable", f"damaged TIFF ({type(error).__name__}: {error})")
    return Rejected("unreadable", "no image of a known kind")
