"""How long a plan takes, and how much memory, for a source of the size of ImageNet.

    python benchmarks/plan.py [--images 1300000] [--variants 4] [--samples-per-shard 1000]

Method. Names as ImageNet has them (`train/n01440764/n01440764_10026.JPEG`) are generated one by one in place of the
listing of a folder or bucket, whose speed is the store's; a list of them is written as text and as Parquet and read
from disk. Everything after that is the real thing: names and digest, the plan and its hash, then, as the driver of a
job does, the arguments of every shard, pickled as Ray would and dropped. Time is by the clock, memory the peak of the
process (VmHWM) over what it had after the imports. Each source in a process of its own.
"""

from __future__ import annotations

import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

# This file's folder holds modules named as packages of the project: drop it from the path, or they would be imported.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import typer  # noqa: E402

from infra import storage  # noqa: E402
from infra.recipe import load_recipe  # noqa: E402
from pipelines.plan import plan_pairs  # noqa: E402

KINDS = ("folder", "txt", "parquet", "pairs")


def entries(images: int, ending: str = "JPEG") -> Iterator[storage.FileEntry]:
    """Files as a listing gives them, in the order of their names."""
    per_class = -(-images // 1000)
    for number in range(images):
        folder = f"n{1440764 + number // per_class:08d}"
        name = f"train/{folder}/{folder}_{number % per_class:05d}.{ending}"
        yield storage.FileEntry(name, 110_000 + number % 997, f"/data/imagenet/{name}")


def memory(field: str) -> float:
    """VmRSS or VmHWM of this process, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


def measure(kind: str, source: str, images: int, overrides: list[str]) -> None:
    """Plan in this process and print a row of the table."""
    recipe = load_recipe("realsr_x4", overrides)
    if kind == "pairs":
        recipe = load_recipe("realsr_x4", [*overrides, "degradation.name=paired", "degradation.lq_dir=/data/lq"])
    before, start = memory("VmRSS"), time.perf_counter()
    with (
        mock.patch.object(storage, "exists", return_value=True),
        mock.patch.object(storage, "list_files", lambda url: entries(images, "png" if url == "/data/lq" else "JPEG")),
    ):
        planned = plan_pairs(recipe, source, "out")
    listed, shards, largest = time.perf_counter() - start, planned.plan.num_shards, 0
    for shard in range(shards):
        largest = max(largest, len(pickle.dumps((shard, planned.images_of(shard)))))
    seconds = time.perf_counter() - start
    print(
        f"| {kind} | {planned.source.num_images:,} | {planned.plan.num_samples:,} | {shards:,} | {listed:.1f} | "
        f"{seconds - listed:.1f} | {seconds:.1f} | {memory('VmHWM') - before:.0f} | {memory('VmHWM'):.0f} | "
        f"{largest / 1024:.0f} |"
    )


def main(images: int = 1_300_000, variants: int = 4, samples_per_shard: int = 1000, kind: str | None = None) -> None:
    """Prints a Markdown table."""
    overrides = [f"shards.variants={variants}", f"shards.samples_per_shard={samples_per_shard}"]
    if kind is not None:
        measure(kind.partition("=")[0], kind.partition("=")[2], images, overrides)
        return
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f},")
    print(f"Python {platform.python_version()}, pyarrow {pa.__version__}\n")
    print("| source | images | samples | shards | listing and plan, s | arguments of all shards, s | together, s | "
          "memory for it, MB | peak of the process, MB | largest argument, KB |\n|" + "---|" * 10)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        names = [f"/data/imagenet/{entry.name}" for entry in entries(images)]
        Path(folder, "list.txt").write_text("\n".join(names))
        pq.write_table(pa.table({"uri": names}), Path(folder, "list.parquet"))
        del names
        for one in KINDS:
            source = "/data/imagenet" if one in ("folder", "pairs") else f"{folder}/list.{one}"
            options = ["--images", images, "--variants", variants, "--samples-per-shard", samples_per_shard]
            command = [sys.executable, __file__, *map(str, options), "--kind", f"{one}={source}"]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    typer.run(main)
