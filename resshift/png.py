"""Writing PNG files row by row: gray or colour, with or without alpha, 8 or 16 bits.

Pillow writes no 16-bit colour and OpenCV no colour profile, and both want the whole image in memory, which for the
enlargement of a large photo is gigabytes.
"""

from __future__ import annotations

import struct
import zlib
from types import TracebackType
from typing import Protocol

import numpy as np

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # gray, gray + alpha, RGB, RGBA
_FILTER_UP = 2  # of a row: what differs from the row above; the best of the cheap ones on photos
_CHUNK = 1 << 20


class Writable(Protocol):
    """What takes bytes: a file, or anything else with `write`."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


class PngWriter:
    """A PNG file in the making. `write` takes rows from top to bottom; leaving the context completes the file."""

    def __init__(
        self,
        file: Writable,
        width: int,
        height: int,
        channels: int,
        dtype: np.dtype | type,
        *,
        icc_profile: bytes | None = None,
        level: int = 4,
    ) -> None:
        """
        Args:
            channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA.
            dtype: uint8 or uint16, the samples' type.
            level: zlib's, 0 (none) to 9 (smallest).
        """
        self.file, self.shape, self.dtype = file, (width, channels), np.dtype(dtype)
        self.missing_rows = height
        self.above = np.zeros(width * channels * self.dtype.itemsize, np.uint8)
        self.compressor = zlib.compressobj(level)
        self.pending = bytearray()
        file.write(b"\x89PNG\r\n\x1a\n")
        bits = 8 * self.dtype.itemsize
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, _COLOUR_TYPES[channels], 0, 0, 0))
        if icc_profile:
            self._chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))

    def write(self, rows: np.ndarray) -> None:
        """Append rows (n, width, channels) of the file's dtype."""
        if rows.shape[1:] != self.shape or rows.dtype != self.dtype or len(rows) > self.missing_rows:
            raise ValueError(f"rows are {rows.dtype} {rows.shape}; give at most {self.missing_rows} of {self.shape}")
        big_endian = rows.astype(rows.dtype.newbyteorder(">"), copy=False)
        data = np.ascontiguousarray(big_endian).reshape(len(rows), -1).view(np.uint8)
        filtered = np.empty((len(rows), data.shape[1] + 1), np.uint8)
        filtered[:, 0] = _FILTER_UP
        filtered[0, 1:] = data[0] - self.above
        np.subtract(data[1:], data[:-1], out=filtered[1:, 1:])
        self.above = data[-1].copy()
        self.missing_rows -= len(rows)
        self.pending += self.compressor.compress(filtered.data)
        if len(self.pending) >= _CHUNK:
            self._flush()

    def __enter__(self) -> PngWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        if self.missing_rows:
            raise ValueError(f"{self.missing_rows} rows were not written")
        self.pending += self.compressor.flush()
        self._flush()
        self._chunk(b"IEND", b"")

    def _flush(self) -> None:
        self._chunk(b"IDAT", bytes(self.pending))
        self.pending.clear()

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self.file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
