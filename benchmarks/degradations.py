"""How fast pairs are made, and where the time goes.

    python benchmarks/degradations.py [--seconds 10] [--task realesrgan] [--no-keep-memory]

Method. One process, one core: OpenCV is told to use one thread, and no BLAS call here uses more. The C library keeps
freed memory, as in the workers of make_pairs (`infra.allocator`; `--no-keep-memory` leaves it as it comes). HQ images
are the eight 256x256 crops of scikit-image photos that the reference statistics were made on, decoded beforehand; a
pair is `degrade(hq, seed)`, from the HQ array to the LQ array and the finished record. Each task makes the same 100
draws over and over for `--seconds`. Reported are the best and the median pass by the clock, and the best pass by the
processor time it used: on a machine shared with others the last is the closest to what a core of one's own would give,
and still low, since caches and memory are shared, too. A primitive is the best of repeated calls on one 256x256x3
image, by the clock. Ten draws of each task run first, so that tables and caches are filled, as they are in a long job.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# This file has the package's name: drop its folder from the path, or it would be imported instead.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import skimage.data  # noqa: E402
import typer  # noqa: E402

from degradations import blur, build, jpeg, kernels, masks, noise, resize  # noqa: E402
from infra.allocator import keep_freed_memory  # noqa: E402

CROPS = [("astronaut", 0, 0), ("astronaut", 0, 256), ("astronaut", 256, 0), ("astronaut", 256, 256)]
CROPS += [("coffee", 0, 0), ("coffee", 100, 300), ("chelsea", 20, 100), ("rocket", 100, 200)]
TASKS = [("realesrgan", 4), ("realesrgan testing", 4), ("bsrgan", 4), ("bicubic", 4)]
TASKS += [("face", 1), ("inpainting", 1), ("deblurring", 1)]
DRAWS = 100


def pairs_per_second(task: str, scale: int, images: list[np.ndarray], seconds: float) -> tuple[float, float, float]:
    """Over passes of DRAWS pairs: best and median by the clock, best by processor time."""
    name, _, preset = task.partition(" ")
    degrade = build({"name": name, "preset": preset} if preset else name, scale=scale)
    for seed in range(10):
        degrade(images[seed % len(images)], seed=seed)
    rates: list[float] = []
    processor_rates: list[float] = []
    end = time.perf_counter() + seconds
    while not rates or time.perf_counter() < end:
        start, processor_start = time.perf_counter(), time.process_time()
        for seed in range(DRAWS):
            degrade(images[seed % len(images)], seed=seed)
        processor_rates.append(DRAWS / (time.process_time() - processor_start))
        rates.append(DRAWS / (time.perf_counter() - start))
    return max(rates), statistics.median(rates), max(processor_rates)


def milliseconds(call: Callable[[], object], repeats: int = 60) -> float:
    """Best of `repeats`."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def primitives(image: np.ndarray) -> dict[str, Callable[[], object]]:
    """A call for each primitive on `image` (256, 256, 3)."""
    levels = image.astype(np.float32)
    shake = [(float(8 * np.cos(t)), float(5 * np.sin(2 * t))) for t in np.linspace(0, 4, 24)]
    filters = {
        "blur, round gaussian 19 px": kernels.gaussian(19, 2.5),
        "blur, tilted gaussian 19 px": kernels.gaussian(19, 2.5, 0.7, 0.6),
        "blur, plateau 19 px": kernels.plateau(19, 2.0, beta=1.5),
        "blur, sinc 13 px": kernels.sinc(13, 1.5),
        "blur, camera shake": kernels.motion(shake),
    }
    calls: dict[str, Callable[[], object]] = {
        name: partial(blur.filter2d, image, kernel) for name, kernel in filters.items()
    }
    for mode in resize.RESIZE_MODES:
        calls[f"rescale x0.6, {mode}"] = partial(resize.rescale, levels, 0.6, mode)
    calls["antialiased bicubic x0.25"] = partial(resize.matlab_bicubic, levels, 0.25)
    for kind, gray in (("colour", False), ("gray", True)):
        calls[f"gaussian noise, {kind}"] = partial(noise.gaussian_noise, levels, 10.0, 1, gray=gray)
        calls[f"poisson noise, {kind}"] = partial(noise.poisson_noise, levels, 1.0, 1, gray=gray)
    calls["jpeg, quality 60"] = partial(jpeg.jpeg, image, 60)
    box = masks.Box(left=9, top=9, width=90, height=90)
    calls["mask, one box"] = partial(masks.paint_mask, 256, 256, (box,))
    degrade = build("realesrgan", scale=4)
    calls["drawing a realesrgan record"] = partial(degrade.draw, 256, 256, 1)
    return calls


def main(seconds: float = 10.0, task: str | None = None, keep_memory: bool = True) -> None:
    """Prints two Markdown tables."""
    cv2.setNumThreads(1)
    if keep_memory:
        keep_freed_memory()
    images = [np.ascontiguousarray(getattr(skimage.data, n)()[y : y + 256, x : x + 256]) for n, y, x in CROPS]
    load = os.getloadavg()[0]
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start,")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, OpenCV {cv2.__version__}\n")
    print("| task | scale | pairs/s, best pass | median pass | pairs per processor second, best pass |")
    print("|---|---|---|---|---|")
    for name, scale in TASKS:
        if task in (None, name):
            best, median, processor = pairs_per_second(name, scale, images, seconds)
            print(f"| {name} | {scale} | {best:.0f} | {median:.0f} | {processor:.0f} |", flush=True)
    if task is None:
        print("\n| primitive, 256x256x3 | ms |\n|---|---|")
        for name, call in primitives(images[0]).items():
            print(f"| {name} | {milliseconds(call):.3f} |")


if __name__ == "__main__":
    typer.run(main)
