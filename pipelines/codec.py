"""PNG as shards store it: written for speed, and the same bytes whoever writes them, when and where.

Every PNG reader reads it. What differs from the usual writers is the effort: one filter for all rows (what differs from
the row above), and a deflate that looks for runs of one byte alone instead of searching its past for repetitions. A
search is where compressors take liberties: ISA-L, twice as fast, now and then misses a repetition that it found in
another run (benchmarks/codec.md). Runs leave none: zlib and zlib-ng give the same bytes, and a test holds them to it.
"""

import struct
import zlib

import cv2
import numpy as np
from zlib_ng import zlib_ng

CODEC = "png: up filter, zlib run lengths"
"""Names what decides the bytes of an encoded image; part of a dataset's identity."""

_LEVEL, _WINDOW_BITS, _MEMORY = 1, 15, 9  # of zlib: fastest; largest window and blocks
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
    deflate = zlib_ng.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY, zlib.Z_RLE)
    data = deflate.compress(rows) + deflate.flush()
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def decode_png(data: bytes) -> np.ndarray:
    """Bytes of any 8-bit PNG -> uint8 (H, W, 3) RGB or (H, W). Raises ValueError if they are damaged."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error as error:  # a header that promises more pixels than OpenCV takes
        raise ValueError(f"not a readable PNG ({error.err})") from error
    if pixels is None:
        raise ValueError("not a readable PNG")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.ndim == 3 else pixels


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
