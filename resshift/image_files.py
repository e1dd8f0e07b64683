"""Image files of any common kind as RGB arrays, and back as PNG with what the kind had (gray, alpha, depth, profile).

Shapes: rgb (H, W, 3) and alpha (H, W), uint8, or uint16 where the file has that many shades.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from resshift.images import upscale_lq
from resshift.png import PngWriter, Writable

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Pillow's bound (178956970): a few bytes of a bad file may claim any size."""

ORIENTATION = 0x0112
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""EXIF orientation -> what turns the stored array (H, W, ...) upright. Pillow and OpenCV turn TIFFs by themselves."""

DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error, cv2.error)
"""What the decoders raise for files that are damaged in odd ways: a header may say anything."""

_PHOTOMETRIC, _NUM_CHANNELS, _PLANAR, _EXTRA_SAMPLES = 262, 277, 284, 338  # tags of a TIFF: what its samples mean
_MIN_IS_WHITE, _GRAY, _RGB = 0, 1, 2  # photometric interpretations that are read at 16 bits
_UNREAD = {5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
_LUMA = np.array([0.299, 0.587, 0.114])
_ALPHA_MARGIN = 4  # LQ rows above and below that the bicubic kernel may look at
_ROWS = 256  # LQ rows of alpha enlarged at once


class _Unsupported(ValueError):
    """A whole image of a kind that is not read."""


@dataclass(frozen=True)
class LoadedImage:
    """An upright image as RGB, and what is needed to write its restored version in the same kind."""

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    is_gray: bool = False
    icc_profile: bytes | None = None
    notes: tuple[str, ...] = ()
    """What was lost in reading, in words for the user."""

    @property
    def channels(self) -> int:
        """Channels of a file of this kind: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA."""
        return (1 if self.is_gray else 3) + (self.alpha is not None)


def is_image_name(name: str) -> bool:
    """True if the name ends like an image file."""
    return name.lower().endswith(SUFFIXES)


def decode(data: bytes) -> LoadedImage:
    """Decode an encoded image: turned upright as EXIF says, gray and palette expanded to RGB, 16 bits kept.

    Raises ValueError in one line if the bytes are no complete image of a kind that is supported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # half of the bound
            opened = Image.open(io.BytesIO(data))
        with opened:
            return _decode_opened(data, opened)
    except UnidentifiedImageError as error:
        raise ValueError("is not an image (or of a kind that is not supported)") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"has more than the {MAX_PIXELS} pixels that are taken; cut it") from error
    except _Unsupported:
        raise
    except DAMAGE as error:
        raise ValueError(f"is damaged or cut off ({' '.join(str(error).split())})") from error


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode to uint8 RGB (H, W, 3), alpha dropped. Raises ValueError."""
    return eight_bits(decode(data).rgb)


def decode_mask(data: bytes) -> np.ndarray:
    """Decode a mask: bool (H, W), true where the image is brighter than half, and not transparent.

    Raises ValueError, also for a file that holds 0 and 1 alone: it would mark nothing.
    """
    loaded = decode(data)
    brightness = eight_bits(loaded.rgb.max(axis=2))
    if brightness.max() == 1:
        raise ValueError("holds 0 and 1 only; unknown pixels are white: multiply them by 255")
    unknown = brightness >= 128
    return unknown if loaded.alpha is None else unknown & (eight_bits(loaded.alpha) >= 128)


def eight_bits(samples: np.ndarray) -> np.ndarray:
    """uint8 or uint16 samples as uint8, rounded to nearest."""
    return samples if samples.dtype == np.uint8 else np.rint(samples / 257.0).astype(np.uint8)


def encode_png(rgb: np.ndarray, like: LoadedImage | None = None) -> bytes:
    """Encode RGB (H, W, 3) as PNG; `like` brings back gray, the alpha channel (enlarged to fit) and the profile."""
    buffer = io.BytesIO()
    write_png(buffer, [rgb], rgb.shape[:2], like or LoadedImage(rgb[:0]))
    return buffer.getvalue()


def write_png(file: Writable, rows: Iterable[np.ndarray], size: tuple[int, int], like: LoadedImage) -> None:
    """Write RGB rows (n, W, 3), which come from top to bottom, as a PNG of `size` (H, W), of the same kind as `like`.

    The dtype is that of `like`, too. Raises ValueError if `size` is no whole multiple of an alpha channel's size.
    """
    height, width = size
    with PngWriter(file, width, height, like.channels, like.rgb.dtype, icc_profile=like.icc_profile) as png:
        for part in rows_like(rows, like, width):
            png.write(part)


def rows_like(rows: Iterable[np.ndarray], like: LoadedImage, width: int) -> Iterator[np.ndarray]:
    """RGB rows (n, width, 3) with the channels of `like`: (n, width, C). Its alpha channel is enlarged to fit."""
    alpha = None if like.alpha is None else _Enlarged(like.alpha, width // like.alpha.shape[1])
    for rgb in rows:
        colour = rgb
        if like.is_gray:
            colour = np.rint(rgb @ _LUMA).clip(0, np.iinfo(rgb.dtype).max).astype(rgb.dtype)[..., None]
        yield colour if alpha is None else np.concatenate([colour, alpha.take(len(rgb))[..., None]], axis=2)


class _Enlarged:
    """A channel (h, w) enlarged bicubically, from which rows are taken from top to bottom."""

    def __init__(self, channel: np.ndarray, scale: int) -> None:
        self.channel, self.scale = channel, scale
        self.taken = 0
        self.ready = np.empty((0, channel.shape[1] * scale), channel.dtype)

    def take(self, count: int) -> np.ndarray:
        """The next `count` rows of the result."""
        while len(self.ready) < count:
            self.ready = np.concatenate([self.ready, self._next_part()])
        out, self.ready = self.ready[:count], self.ready[count:]
        return out

    def _next_part(self) -> np.ndarray:
        top, bottom = self.taken, min(self.taken + _ROWS, len(self.channel))
        if top == bottom:
            raise ValueError(f"the image has more rows than {self.scale} times those of its alpha channel")
        self.taken = bottom
        first = max(0, top - _ALPHA_MARGIN)
        part = torch.from_numpy(self.channel[first : bottom + _ALPHA_MARGIN].astype(np.float32))
        large = upscale_lq(part[None, None], self.scale)[0, 0].numpy()
        large = large[(top - first) * self.scale :][: (bottom - top) * self.scale]
        return np.rint(large).clip(0, np.iinfo(self.channel.dtype).max).astype(self.channel.dtype)


def _decode_opened(data: bytes, opened: Image.Image) -> LoadedImage:
    deep, white = _is_deep(opened), _white_of_pnm(opened)  # before anything loads it and forgets
    frames = getattr(opened, "n_frames", 1)
    notes = (f"only the first of {frames} frames is used",) if frames > 1 else ()
    orientation = 1 if opened.format == "TIFF" else opened.getexif().get(ORIENTATION, 1)
    turn = UPRIGHT.get(orientation, lambda a: a)
    icc_profile = opened.info.get("icc_profile")
    tags = getattr(opened, "tag_v2", {})
    opened.load()  # finds what is damaged, which OpenCV may pass over
    rgb, alpha, is_gray = _decode_deep(data, tags, white) if deep else _decode_shallow(opened)
    # A profile describes the samples as stored: it does not survive a change of colour model (CMYK, palette).
    keep_profile = is_gray or opened.mode in ("RGB", "RGBA")
    rgb = np.ascontiguousarray(turn(rgb))
    alpha = None if alpha is None else np.ascontiguousarray(turn(alpha))
    return LoadedImage(rgb, alpha, is_gray, icc_profile if keep_profile else None, notes)


def _is_deep(opened: Image.Image) -> bool:
    """True for 16 bits per sample. Pillow has no 16-bit colour: it would drop half of the bits without a word."""
    stored = " ".join(str(tile[3]) for tile in getattr(opened, "tile", ()))  # "RGB;16B"
    bits = getattr(opened, "tag_v2", {}).get(258, "")  # of a TIFF
    return opened.mode.startswith("I") or ";16" in stored or _white_of_pnm(opened) > 255 or "16" in str(bits)


def _white_of_pnm(opened: Image.Image) -> int:
    """The largest sample of a PNM file (its maxval) where Pillow tells it, else 255."""
    tiles = getattr(opened, "tile", ())
    arguments = tiles[0][3] if opened.format == "PPM" and tiles else None
    return int(arguments[1]) if isinstance(arguments, tuple) else 255  # ("RGB", 4095)


def _decode_deep(data: bytes, tags: Mapping[int, Any], white: int) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """RGB, alpha, whether it is gray; from OpenCV, whose order is BGR and whose failure is None.

    OpenCV gives samples as they are stored: what a TIFF's tags and a PNM's maxval say of them is seen to here.
    """
    _check_layout(tags)
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise OSError("16-bit samples cannot be decoded")
    if samples.dtype == np.uint8:
        samples = samples.astype(np.uint16) * 257
    if samples.dtype != np.uint16:
        raise _Unsupported(f"holds {samples.dtype} samples, which are not supported; convert it to 8 or 16 bits")
    if 255 < white < 65535:
        samples = np.rint(np.minimum(samples, white) * (65535 / white)).astype(np.uint16)
    if samples.ndim == 2:
        samples = 65535 - samples if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE else samples
        return np.repeat(samples[..., None], 3, axis=2), None, True
    alpha = samples[..., 3] if samples.shape[2] == 4 else None
    rgb = samples[..., 2::-1]
    if alpha is not None and tuple(tags.get(_EXTRA_SAMPLES, ())) == (1,):
        rgb = _unassociated(rgb, alpha)
    is_gray = alpha is not None and bool((rgb[..., :1] == rgb).all())  # gray with alpha arrives as four channels
    return rgb, alpha, is_gray


def _check_layout(tags: Mapping[int, Any]) -> None:
    """Raise _Unsupported for 16-bit TIFFs whose samples OpenCV hands over as if they were interleaved RGB."""
    if tags.get(_PLANAR) == 2 and tags.get(_NUM_CHANNELS) != 1:
        raise _Unsupported("holds 16-bit colours plane by plane, which is not supported; store them interleaved")
    if (kind := tags.get(_PHOTOMETRIC, _RGB)) not in (_MIN_IS_WHITE, _GRAY, _RGB):
        name = _UNREAD.get(kind, f"of photometric interpretation {kind}")
        raise _Unsupported(f"is 16-bit {name}, which is not supported; convert it to RGB")


def _unassociated(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours that were stored multiplied with alpha, uint16 (H, W, 3), as they were before."""
    share = np.maximum(alpha, 1)[..., None] / 65535
    return np.rint(np.minimum(rgb / share, 65535)).astype(np.uint16)


def _decode_shallow(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None, bool]:
    if image.mode == "F":
        raise _Unsupported("holds 32-bit floating-point samples, which are not supported; convert it to 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = np.array(image.convert("RGBA"))
        return rgba[..., :3], rgba[..., 3], image.mode in ("L", "LA", "La")
    return np.array(image.convert("RGB")), None, image.mode in ("L", "1")


__all__ = [
    "DAMAGE",
    "MAX_PIXELS",
    "ORIENTATION",
    "UPRIGHT",
    "LoadedImage",
    "decode",
    "decode_mask",
    "decode_rgb",
    "eight_bits",
    "encode_png",
    "is_image_name",
    "rows_like",
    "write_png",
]
