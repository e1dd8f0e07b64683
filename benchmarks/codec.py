"""Which lossless codec for the images of shards: time to write, time to read, and size.

    pip install imagecodecs qoi isal deflate fpng-py     # candidates that the project does not use
    python benchmarks/codec.py [--repeats 30]

Method. One process, one core (OpenCV and every codec are told to use one thread). Images: the eight 256x256 crops of
scikit-image photos that the other benchmarks use, and their 64x64 LQ by the Real-ESRGAN degradation. A time is the
best of `--repeats` per image, averaged over the images; codecs take turns within a repeat, so that whatever else the
machine does meets all of them. Encoding starts from a contiguous uint8 RGB array and ends with `bytes`; decoding the
other way round. PNGs are read by OpenCV, as the project does, whoever wrote them. Every decoded image is compared with
the original. The first line of the table is what the project used before, the second what it uses.
"""

from __future__ import annotations

import importlib
import io
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# This file's folder holds modules named as packages of the project: drop it from the path, or they would be imported.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import skimage.data  # noqa: E402
import typer  # noqa: E402
from PIL import Image  # noqa: E402

from degradations import build  # noqa: E402
from pipelines.codec import CODEC, decode_png, encode_png  # noqa: E402

CROPS = [("astronaut", 0, 0), ("astronaut", 0, 256), ("astronaut", 256, 0), ("astronaut", 256, 256)]
CROPS += [("coffee", 0, 0), ("coffee", 100, 300), ("chelsea", 20, 100), ("rocket", 100, 200)]

Encode = Callable[[np.ndarray], bytes]
Decode = Callable[[bytes], np.ndarray]


def opencv_png(image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def pillow(image: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def pillow_decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def up_filtered(image: np.ndarray) -> bytes:
    """The rows of a PNG with its filter "up", before they are compressed."""
    pixels = image.reshape(len(image), -1)
    rows = np.full((len(image), 1 + pixels.shape[1]), 2, np.uint8)
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    return rows.tobytes()


def own_png(image: np.ndarray, compress: Callable[[bytes], bytes]) -> bytes:
    """A PNG as pipelines.codec writes it, with another deflate."""
    header = len(image).to_bytes(4, "big") + b"\x08\x02\0\0\0"
    chunks = [
        (b"IHDR", image.shape[1].to_bytes(4, "big") + header),
        (b"IDAT", compress(up_filtered(image))),
        (b"IEND", b""),
    ]
    body = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def with_strategy(library: Any, data: bytes, strategy: int) -> bytes:
    deflate = library.compressobj(2, zlib.DEFLATED, 15, 9, strategy)
    return deflate.compress(data) + deflate.flush()


def codecs() -> dict[str, tuple[Encode, Decode]]:
    """Name -> (encode, decode), as far as the packages are installed."""
    level, strategy, row_filter = cv2.IMWRITE_PNG_COMPRESSION, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_FILTER
    rle, up = (strategy, cv2.IMWRITE_PNG_STRATEGY_RLE), (row_filter, cv2.IMWRITE_PNG_FILTER_UP)
    found: dict[str, tuple[Encode, Decode]] = {
        "PNG, OpenCV level 1": (lambda image: opencv_png(image, level, 1), decode_png),
        f"PNG, pipelines.codec ({CODEC})": (encode_png, decode_png),
        "PNG, OpenCV level 0 (stored)": (lambda image: opencv_png(image, level, 0), decode_png),
        "PNG, OpenCV level 6": (lambda image: opencv_png(image, level, 6), decode_png),
        "PNG, OpenCV level 1, up filter, run lengths": (
            lambda image: opencv_png(image, level, 1, *rle, *up),
            decode_png,
        ),
        "PNG, Pillow level 1": (partial(pillow, kind="PNG", compress_level=1), decode_png),
        "PNG, up filter, zlib, run lengths": (
            partial(own_png, compress=partial(with_strategy, zlib, strategy=3)),
            decode_png,
        ),
        "WebP lossless, Pillow method 0": (
            partial(pillow, kind="WEBP", lossless=True, method=0, quality=0),
            pillow_decode,
        ),
        "TIFF with LZW, Pillow": (partial(pillow, kind="TIFF", compression="tiff_lzw"), pillow_decode),
    }
    names = ("imagecodecs", "qoi", "zlib_ng.zlib_ng", "fpng_py", "isal.isal_zlib", "deflate")
    modules = {name: _module(name) for name in names}
    if isal := modules["isal.isal_zlib"]:
        for number in (0, 1, 2, 3):
            compress = partial(isal.compress, level=number)
            found[f"PNG, up filter, isal level {number}"] = (partial(own_png, compress=compress), decode_png)
    if libdeflate := modules["deflate"]:
        compress = partial(libdeflate.zlib_compress, compresslevel=1)
        found["PNG, up filter, libdeflate level 1"] = (partial(own_png, compress=compress), decode_png)
    if zlib_ng := modules["zlib_ng.zlib_ng"]:
        for name, number in (("Huffman alone", zlib.Z_HUFFMAN_ONLY), ("run lengths", zlib.Z_RLE)):
            compress = partial(with_strategy, zlib_ng, strategy=number)
            found[f"PNG, up filter, zlib-ng, {name}"] = (partial(own_png, compress=compress), decode_png)
    if fpng := modules["fpng_py"]:
        found["PNG, fpng"] = (
            lambda image: fpng.fpng_encode_image_to_memory(image.tobytes(), image.shape[1], image.shape[0], 3),
            decode_png,
        )
    if qoi := modules["qoi"]:
        found["QOI"] = (qoi.encode, qoi.decode)
    if many := modules["imagecodecs"]:
        found |= {
            "JPEG XL lossless, effort 1": (
                partial(many.jpegxl_encode, lossless=True, effort=1, numthreads=1),
                partial(many.jpegxl_decode, numthreads=1),
            ),
            "JPEG-LS": (many.jpegls_encode, many.jpegls_decode),
            "NumPy file, zstd level 1": (
                lambda image: many.zstd_encode(_npy(image), 1),
                lambda data: _array(many.zstd_decode(data)),
            ),
            "NumPy file, LZ4": (
                lambda image: many.lz4_encode(_npy(image), header=True),
                lambda data: _array(many.lz4_decode(data, header=True)),
            ),
        }
    return found


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        print(f"{name}: not installed, left out", file=sys.stderr)
        return None


def _npy(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, image)
    return buffer.getvalue()


def _array(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data))


def measure(images: list[np.ndarray], repeats: int) -> dict[str, tuple[float, float, float]]:
    """Codec -> (ms to encode, ms to decode, bytes), each the mean over the images."""
    found = codecs()
    encoded = {name: [bytes(encode(image)) for image in images] for name, (encode, _) in found.items()}
    for name, (_, decode) in found.items():
        for image, data in zip(images, encoded[name], strict=True):
            assert np.array_equal(decode(data), image), f"{name} is not lossless"
    best = {(name, way): [float("inf")] * len(images) for name in found for way in (0, 1)}
    for _ in range(repeats):
        for name, ways in found.items():
            for way, call in enumerate(ways):
                for i, value in enumerate(images if way == 0 else encoded[name]):
                    start = time.perf_counter()
                    call(value)  # type: ignore[operator]
                    best[name, way][i] = min(best[name, way][i], time.perf_counter() - start)
    means = {name: [float(np.mean(best[name, way])) * 1e3 for way in (0, 1)] for name in found}
    return {name: (*means[name], float(np.mean([len(data) for data in encoded[name]]))) for name in found}  # type: ignore[misc]


def main(repeats: int = 30) -> None:
    """Prints two Markdown tables."""
    cv2.setNumThreads(1)
    hq = [np.ascontiguousarray(getattr(skimage.data, n)()[y : y + 256, x : x + 256]) for n, y, x in CROPS]
    degrade = build("realesrgan", scale=4)
    lq = [degrade(image, seed=1).lq for image in hq]
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f},")
    print(f"Python {platform.python_version()}, OpenCV {cv2.__version__}")
    for title, images in (("HQ, 256x256", hq), ("LQ, 64x64", lq)):
        figures = measure(images, repeats)
        first = figures["PNG, OpenCV level 1"]
        print(f"\n| {title} | encode, ms | times faster | decode, ms | bytes | of PNG 1 |\n|---|---|---|---|---|---|")
        for name, (encode, decode, size) in figures.items():
            ratios = f"{first[0] / encode:.1f}", f"{size / first[2]:.2f}"
            print(f"| {name} | {encode:.3f} | {ratios[0]} | {decode:.3f} | {size:.0f} | {ratios[1]} |")


if __name__ == "__main__":
    typer.run(main)
