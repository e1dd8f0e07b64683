"""How fast pairs go from photos into an S3 server, where the time goes, and what memory it takes.

    python benchmarks/pipelines.py [speed] [bounded] [slow] [latents]     (default: all four)

Everything of one part is measured in one run on one machine. The source is a folder of JPEG photos of 512x512 (quality
90, crops of photos that scikit-image ships), four variants each, as `realsr_x4` makes them: HQ 256x256, LQ 64x64. The
store is a real SeaweedFS on loopback, whose processes share the machine's cores with what is measured. Ray is started,
and has made a small dataset, before a clock starts.

speed    Each stage alone: one process, one thread, median of several passes over the same photos. Then end to end,
         `make_pairs` with 1 and 2 workers, into S3 and into a folder, from listing the source to the finished card;
         best of `REPEATS`.
bounded  20,400 pairs of 64x64 into S3 with 2 workers; the resident memory of every process twice a second.
slow     The same with a store behind a proxy that lets 4 MB/s through, a tenth of what is made.
latents  `make_latents` with a small autoencoder: the share of the time in which the encoder computes.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# This file has the package's name: drop its folder from the path, or it would be imported instead.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
sys.path.append(str(Path(__file__).resolve().parents[1]))

import cv2  # noqa: E402
import psutil  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402
import webdataset as wds  # noqa: E402
from PIL import Image  # noqa: E402
from skimage import data  # noqa: E402

from degradations import build  # noqa: E402
from infra import storage, storage_s3_client  # noqa: E402
from infra.recipe import load_recipe  # noqa: E402
from infra.servers import s3_server  # noqa: E402
from pipelines.decode import decode_rgb  # noqa: E402
from pipelines.latents import make_latents  # noqa: E402
from pipelines.pairs import make_pairs  # noqa: E402
from pipelines.shard import encode_json, encode_png  # noqa: E402
from resshift.vqgan import VQGAN  # noqa: E402
from resshift.vqgan_config import VQGANConfig  # noqa: E402
from resshift.weights import save_vqgan  # noqa: E402
from tests.faults.proxy import Proxy  # noqa: E402

SIDE, HQ, VARIANTS, PHOTOS = 512, 256, 4, 600
PASSES, REPEATS = 5, 3
PARTS = ("speed", "bounded", "slow", "latents")


def main() -> None:
    parts = sys.argv[1:] or list(PARTS)
    print(f"load {os.getloadavg()[0]:.1f} at the start, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as name:
        folder = Path(name)
        photos = write_photos(folder / "photos")
        with s3_server(folder / "s3", "bench", secrets.token_hex(8), "bench") as server:
            os.environ.update(server.environment)
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            run_pairs(photos, "s3://bench/warm", 2, pairs=48, per_shard=8)
            for part in parts:
                print(f"\n## {part}\n", flush=True)
                globals()[part](photos, folder, server.environment["AWS_ENDPOINT_URL"])
            ray.shutdown()


def write_photos(folder: Path) -> Path:
    """PHOTOS different crops of 512x512, as JPEG."""
    folder.mkdir()
    images = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    images = [cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for image in images]
    for number in range(PHOTOS):
        image = images[number % 4]
        top, left = number * 7 % (image.shape[0] - SIDE), number * 13 % (image.shape[1] - SIDE)
        crop = image[top : top + SIDE, left : left + SIDE]
        Image.fromarray(crop).save(folder / f"{number:03d}.jpg", quality=90)
    return folder


def run_pairs(photos: Path, out: str, workers: int, pairs: int, per_shard: int = 200, hq: int = HQ) -> float:
    """Seconds of one `make_pairs` of so many pairs."""
    source = photos / f"first-{pairs}.txt"
    variants = max(VARIANTS, -(-pairs // PHOTOS))
    names = sorted(photos.glob("*.jpg"))[: pairs // variants]
    source.write_text("".join(f"{name}\n" for name in names))
    recipe = load_recipe(
        "realsr_x4",
        [f"shards.hq_size={hq}", f"shards.samples_per_shard={per_shard}", f"shards.variants={variants}"],
    )
    began = time.perf_counter()
    make_pairs(recipe, str(source), out, workers)
    return time.perf_counter() - began


# --- speed


def speed(photos: Path, folder: Path, endpoint: str) -> None:
    stages = stages_alone(photos)
    slowest, total = max(stages, key=lambda name: stages[name]), sum(stages.values())
    print("| stage alone, one thread | ms per pair | pairs/s |\n|---|---|---|")
    for name, milliseconds in stages.items():
        print(f"| {name} | {milliseconds:.2f} | {1e3 / milliseconds:.0f} |")
    print(f"| sum | {total:.2f} | {1e3 / total:.0f} |\n")
    pairs, rates = PHOTOS * VARIANTS, {}
    for place, root in (("S3", "s3://bench/speed"), ("folder", str(folder / "speed"))):
        for repeat in range(REPEATS):
            for workers in (1, 2):
                seconds = run_pairs(photos, storage.join(root, f"{workers}-{repeat}"), workers, pairs)
                rates[place, workers] = max(rates.get((place, workers), 0.0), pairs / seconds)
    print("| end to end | 1 worker, pairs/s | 2 workers, pairs/s | ratio |\n|---|---|---|---|")
    for place in ("S3", "folder"):
        one, two = rates[place, 1], rates[place, 2]
        print(f"| into {place} | {one:.0f} | {two:.0f} | {two / one:.2f} |")
    one = rates["S3", 1]
    print(f"\nOne worker into S3: {one * total / 1e3:.0%} of the stages one after the other, "
          f"{one * stages[slowest] / 1e3:.0%} of what the slowest stage ({slowest}) alone allows.")  # fmt: skip


def stages_alone(photos: Path) -> dict[str, float]:
    """Milliseconds per pair of each stage, fed with what the stage before it made."""
    cv2.setNumThreads(1)
    names = sorted(photos.glob("*.jpg"))[:60]
    files = [storage.read_bytes(str(name)) for name in names]
    decoded = [decode_rgb(file) for file in files]
    crops = [image[(v * 61) % 256 :, (v * 97) % 256 :][:HQ, :HQ].copy() for image in decoded for v in range(VARIANTS)]
    degrade = build("realesrgan", scale=4)
    made = [degrade(crop, seed=seed) for seed, crop in enumerate(crops)]
    encoded = [
        {"__key__": f"{number:06d}", "hq.png": encode_png(pair.hq), "lq.png": encode_png(pair.lq),
         "json": encode_json(pair.record)}
        for number, pair in enumerate(made)
    ]  # fmt: skip
    packed = io.BytesIO()
    pack(encoded, packed)
    tar = packed.getvalue()
    print(f"{len(crops)} pairs, {len(tar) / len(crops) / 1e3:.0f} kB each in the tar\n")
    numbers = iter(range(10_000))
    return {
        "read and decode (a quarter of a JPEG)": per_pair(
            len(crops), lambda: [decode_rgb(storage.read_bytes(str(name))) for name in names]
        ),
        "degrade": per_pair(len(crops), lambda: [degrade(crop, seed=seed) for seed, crop in enumerate(crops)]),
        "encode": per_pair(
            len(crops), lambda: [(encode_png(p.hq), encode_png(p.lq), encode_json(p.record)) for p in made]
        ),
        "pack, sha256": per_pair(len(crops), lambda: pack(encoded, io.BytesIO())),
        "put to S3": per_pair(
            len(crops), lambda: storage.write_bytes(f"s3://bench/put/{next(numbers)}.tar", tar, if_absent=True)
        ),
    }


def pack(samples: list[dict[str, Any]], target: io.BytesIO) -> None:
    with wds.TarWriter(target, encoder=False, mtime=0, user="", group="") as tar:
        for sample in samples:
            tar.write(sample)
    hashlib.sha256(target.getbuffer()).hexdigest()


def per_pair(pairs: int, stage: Callable[[], object]) -> float:
    """Median milliseconds over PASSES."""
    stage()
    times = []
    for _ in range(PASSES):
        began = time.perf_counter()
        stage()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3 / pairs


# --- memory


def bounded(photos: Path, folder: Path, endpoint: str) -> None:
    with watched() as memory:
        seconds = run_pairs(photos, "s3://bench/bounded", 2, pairs=20_400, per_shard=1000, hq=64)
    print(f"20,400 pairs of 64x64 into S3 in {seconds:.0f} s, {20_400 / seconds:.0f} pairs/s\n")
    report(memory)


def slow(photos: Path, folder: Path, endpoint: str) -> None:
    pairs = 1600
    with Proxy(endpoint) as proxy, redirected(proxy.url):
        proxy.bytes_per_second = 4_000_000
        with watched() as memory:
            seconds = run_pairs(photos, "s3://bench/slow", 2, pairs=pairs, per_shard=400)
    print(f"{pairs} pairs through {proxy.bytes_per_second / 1e6:.0f} MB/s in {seconds:.0f} s: {pairs / seconds:.0f} "
          f"pairs/s, {proxy.forwarded / seconds / 1e6:.1f} MB/s forwarded\n")  # fmt: skip
    report(memory)


@contextmanager
def redirected(url: str) -> Iterator[None]:
    """A Ray of its own, whose workers see the store at `url`."""
    before = os.environ["AWS_ENDPOINT_URL"]
    ray.shutdown()
    os.environ["AWS_ENDPOINT_URL"] = url
    storage_s3_client.forget_clients()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
        os.environ["AWS_ENDPOINT_URL"] = before
        storage_s3_client.forget_clients()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


@contextmanager
def watched() -> Iterator[dict[str, list[tuple[float, int]]]]:
    """(seconds, bytes resident) of the driver and of every Ray worker that was at work, twice a second."""
    memory: dict[str, list[tuple[float, int]]] = defaultdict(list)
    done, began, me = threading.Event(), time.perf_counter(), psutil.Process()

    def watch() -> None:
        while not done.wait(0.5):
            for process in [me, *me.children(recursive=True)]:
                try:
                    title, resident = "".join(process.cmdline()), process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
                if process == me or title.startswith("ray::"):
                    name = "driver" if process == me else f"worker {process.pid}"
                    memory[name].append((time.perf_counter() - began, resident))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def report(memory: dict[str, list[tuple[float, int]]]) -> None:
    end = max(seconds for series in memory.values() for seconds, _ in series)
    print("| process | peak MB in each quarter of the run | peak MB |\n|---|---|---|")
    for name, series in memory.items():
        quarters: list[list[int]] = [[], [], [], []]
        for seconds, resident in series:
            quarters[min(3, int(4 * seconds / end))].append(resident)
        shown = " / ".join(f"{max(quarter) / 1e6:.0f}" if quarter else "-" for quarter in quarters)
        print(f"| {name.split()[0]} | {shown} | {max(resident for _, resident in series) / 1e6:.0f} |")


# --- latents


def latents(photos: Path, folder: Path, endpoint: str) -> None:
    run_pairs(photos, "s3://bench/for-latents", 2, pairs=96, per_shard=24)
    network = {"ch": 32, "ch_mult": (1, 1, 1), "num_res_blocks": 1, "n_embed": 16}
    torch.manual_seed(0)
    save_vqgan(VQGAN(VQGANConfig(**network)), folder / "autoencoder", latent_scale=1.0)
    overrides = [f"autoencoder.network.{key}={list(v) if isinstance(v, tuple) else v}" for key, v in network.items()]
    overrides += [f"autoencoder.weights={folder / 'autoencoder'}", "autoencoder.precision=float32"]
    for workers in (1, 2):
        recipe = load_recipe("realsr_x4", overrides)
        began = time.perf_counter()
        summary = make_latents(recipe, "s3://bench/for-latents", f"s3://bench/latents-{workers}", workers)
        print(f"{workers} encoder(s): {96 / (time.perf_counter() - began):.1f} pairs/s; {summary.split('; ')[1]}")


if __name__ == "__main__":
    main()
