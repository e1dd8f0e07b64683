"""Evaluates shards: restores each image, measures it, and writes rows and images.

What an image scores depends on the models, the protocol and the image alone: its noise is seeded by its key, and every
image goes through the network by itself, so neither the number of actors nor the order of shards matters.
"""

import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.meter import Meter
from evaluation.pair_set import BrokenPair, Pair, PairSet, PairShard, read_pairs
from evaluation.rows import BICUBIC, FAILED, OK, encode_rows, rows_url
from infra import storage
from resshift.image_files import encode_png
from resshift.images import image_to_tensor, tensor_to_image, upscale_lq
from resshift.restorer import Restorer

Bundle = dict[str, np.ndarray]  # the files of a model bundle by name, as bytes (uint8)


@dataclass(frozen=True)
class EvaluationJob:
    """Everything an actor needs besides the models and its shards."""

    pairs: PairSet
    out: str
    metrics: tuple[str, ...]
    scale: int
    seed: int
    tile_size: int
    tile_overlap: int
    save_restored: bool


def read_bundle(folder: Path) -> Bundle:
    """Load the files of a bundle into memory, to be sent to the actors: they need no access to the registry."""
    return {
        path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt")
    }


def bundle_digest(bundle: Bundle) -> str:
    """sha256 that names a model: over the names and contents of its files."""
    total = hashlib.sha256()
    for name, content in sorted(bundle.items()):
        total.update(f"{name}\0{hashlib.sha256(content.tobytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def load_bundle(bundle: Bundle, device: str) -> Restorer:
    """Build the restorer of a bundle in memory. Raises ValueError if it does not fit."""
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        for name, content in bundle.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(path)
        return Restorer.load(folder, device=device)


def image_seed(seed: int, key: str) -> int:
    """63-bit seed of one image's noise."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") >> 1


def bicubic(lq: np.ndarray, scale: int) -> np.ndarray:
    """The baseline: uint8 (h, w, 3) -> uint8 (h*scale, w*scale, 3), as the method itself enlarges its condition."""
    return tensor_to_image(upscale_lq(image_to_tensor(lq), scale))


class Evaluator:
    """Holds the models and the metrics of one worker. `restorers`: method name -> Restorer."""

    def __init__(self, job: EvaluationJob, restorers: Mapping[str, Restorer], device: str) -> None:
        self.job, self.restorers = job, restorers
        for restorer in restorers.values():
            restorer.tile_size, restorer.tile_overlap = job.tile_size, job.tile_overlap
        self.meter = Meter(job.metrics, device)
        self.device_words = device_words(device)

    def evaluate_shard(self, shard: PairShard) -> Iterator[int]:
        """Evaluate one shard, yielding 1 per image; its rows are written, in one piece, at the end."""
        rows: list[dict[str, Any]] = []
        for pair in read_pairs(self.job.pairs, shard):
            rows += [{"shard": shard.name, **row} for row in self.evaluate_pair(pair)]
            yield 1
        storage.write_bytes(rows_url(self.job.out, shard.name), encode_rows(rows))

    def evaluate_pair(self, pair: Pair | BrokenPair) -> Iterator[dict[str, Any]]:
        """The rows of one image, one per method; a failed image has them too, with its reason."""
        for method in (BICUBIC, *self.restorers):
            row: dict[str, Any] = {"key": pair.key, "group": pair.key, "method": method}
            if isinstance(pair, BrokenPair):
                yield row | {"status": FAILED, "error": pair.error}
                continue
            row |= {"group": pair.group, "height": pair.hq.shape[0], "width": pair.hq.shape[1]}
            row["record"] = json.dumps(pair.record, sort_keys=True)
            try:
                yield row | {"status": OK, **self._measure(pair, method)}
            except ValueError as error:
                yield row | {"status": FAILED, "error": " ".join(str(error).split())}

    def _measure(self, pair: Pair, method: str) -> dict[str, Any]:
        self._check_size(pair)
        started = time.perf_counter()
        restored = bicubic(pair.lq, self.job.scale) if method == BICUBIC else self._restore(pair, method)
        seconds = time.perf_counter() - started
        name = None
        if self.job.save_restored and method != BICUBIC:
            name = f"restored/{method}/{pair.key}.png"
            storage.write_bytes(storage.join(self.job.out, name), encode_png(restored))
        return {"seconds": seconds, "device": self.device_words, "image": name, **self.meter.measure(restored, pair.hq)}

    def _restore(self, pair: Pair, method: str) -> np.ndarray:
        mask = None if pair.mask is None else pair.mask.astype(np.uint8) * 255
        return self.restorers[method](pair.lq, seed=image_seed(self.job.seed, pair.key), mask=mask)

    def _check_size(self, pair: Pair) -> None:
        height, width = (side * self.job.scale for side in pair.lq.shape[:2])
        if (height, width) != pair.hq.shape[:2]:
            raise ValueError(
                f"LQ is {pair.lq.shape[1]}x{pair.lq.shape[0]} and HQ {pair.hq.shape[1]}x{pair.hq.shape[0]} pixels; "
                f"at scale {self.job.scale} HQ must be {width}x{height}"
            )


def device_words(device: str) -> str:
    """The GPU's or the processor's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
