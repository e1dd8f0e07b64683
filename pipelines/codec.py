"""PNG as shards store it: written for speed, with bytes that do not depend on the machine.

Every PNG reader reads it. What differs from the usual writers is the effort: one filter for all rows (what differs from
the row above) and ISA-L's deflate at level 1, which gives the size of OpenCV's level 1 in a sixth of its time
(benchmarks/codec.md). ISA-L's levels 0 to 2 give the same bytes on every x86-64 processor; level 3 does not.
"""

import struct
import zlib
from importlib.metadata import version

import cv2
import numpy as np
from isal import isal_zlib

LEVEL = 1
CODEC = f"png: up filter, isal {version('isal')} level {LEVEL}"
"""Names what decides the bytes of an encoded image; part of a dataset's identity."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FILTER_UP = 2
_COLOUR_TYPES = {1: 0, 3: 2}  # gray, RGB


def encode_png(image: np.ndarray) -> bytes:
    """uint8 (H, W, 3) RGB or (H, W) gray -> the bytes of a PNG file."""
    assert image.dtype == np.uint8, image.dtype
    height, width, channels = image.shape if image.ndim == 3 else (*image.shape, 1)
    pixels = image.reshape(height, width * channels)
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = _FILTER_UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])  # modulo 256, as the format wants it
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    data = isal_zlib.compress(rows, LEVEL)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def decode_png(data: bytes) -> np.ndarray:
    """Bytes of any 8-bit PNG -> uint8 (H, W, 3) RGB or (H, W). Raises ValueError if they are damaged."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None:
        raise ValueError("not a readable PNG")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.ndim == 3 else pixels


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
