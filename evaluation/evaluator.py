"""Evaluates shards: restores each image, measures it, and writes rows and images.

What an image scores depends on the models, the protocol and the image alone: its noise is seeded by its key, so neither
the number of actors nor the order of shards matters, and the batch size only as far as sums are rounded differently.
"""

import hashlib
import json
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.meter import Meter
from evaluation.others import OtherMethod
from evaluation.pair_set import BrokenPair, Pair, PairSet, PairShard, read_pairs
from evaluation.rows import BICUBIC, FAILED, OK, encode_rows, rows_url
from infra import storage
from infra.errors import JobError
from infra.memory import MEMORY_ERRORS, is_out_of_memory
from resshift.image_files import encode_png
from resshift.images import image_to_tensor, tensor_to_image, upscale_lq
from resshift.precision import make_repeatable
from resshift.restorer import Restorer


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
    batch_size: int
    precision: str
    save_restored: bool
    others: Mapping[str, OtherMethod]


@dataclass(frozen=True)
class Outcome:
    """What a method made of one image, or why it made nothing. `seconds` is None where nobody measured the time."""

    image: np.ndarray | None = None
    seconds: float | None = None
    error: str | None = None


def image_seed(seed: int, key: str) -> int:
    """63-bit seed of one image's noise."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") >> 1


def bicubic(lq: np.ndarray, scale: int) -> np.ndarray:
    """The baseline: uint8 (h, w, 3) -> uint8 (h*scale, w*scale, 3), as the method itself enlarges its condition."""
    return tensor_to_image(upscale_lq(image_to_tensor(lq), scale))


def same_size_batches(pairs: Iterable[Pair | BrokenPair], batch_size: int) -> Iterator[list[Pair | BrokenPair]]:
    """Cut pairs, in their order, into lists of at most `batch_size` with LQ images of one size; broken ones alone."""
    batch: list[Pair | BrokenPair] = []
    size: object = None
    for pair in pairs:
        own: object = pair.key
        if isinstance(pair, Pair):
            own = (pair.lq.shape, pair.hq.shape, None if pair.mask is None else pair.mask.shape)
        if batch and (own != size or len(batch) == batch_size):
            yield batch
            batch = []
        size = own
        batch.append(pair)
    if batch:
        yield batch


class Evaluator:
    """Holds the models and the metrics of one worker. `restorers`: method name -> Restorer."""

    def __init__(self, job: EvaluationJob, restorers: Mapping[str, Restorer], device: str) -> None:
        make_repeatable()
        self.job, self.restorers = job, restorers
        for restorer in restorers.values():
            restorer.tile_size, restorer.tile_overlap = job.tile_size, job.tile_overlap
            restorer.batch_size = job.batch_size
            restorer.prepare(job.precision)
        self.meter = Meter(job.metrics, device)
        self.device_words = device_words(device)
        self.methods = (BICUBIC, *job.others, *restorers)

    def evaluate_shard(self, shard: PairShard) -> Iterator[int]:
        """Evaluate one shard, yielding how many images are done; its rows are written, in one piece, at the end."""
        rows: list[dict[str, Any]] = []
        for batch in same_size_batches(read_pairs(self.job.pairs, shard), self.job.batch_size):
            rows += [{"shard": shard.name, **row} for row in self.evaluate_batch(batch)]
            yield len(batch)
        storage.write_bytes(rows_url(self.job.out, shard.name), encode_rows(rows))

    def evaluate_batch(self, batch: Sequence[Pair | BrokenPair]) -> Iterator[dict[str, Any]]:
        """The rows of images of one size, one per image and method; a failed image has them too, with its reason."""
        pairs = [pair for pair in batch if isinstance(pair, Pair)]
        for method in self.methods:
            for pair in batch:
                if isinstance(pair, BrokenPair):
                    row = {"key": pair.key, "group": pair.key, "method": method}
                    yield row | {"status": FAILED, "error": pair.error}
            for pair, outcome in zip(pairs, self._outcomes(method, pairs), strict=True):
                yield self._row(pair, method, outcome)

    def _outcomes(self, method: str, pairs: Sequence[Pair]) -> list[Outcome]:
        if not pairs:
            return []
        try:
            self._check_size(pairs[0])  # one size for all
        except ValueError as error:
            return [Outcome(error=str(error))] * len(pairs)
        if method == BICUBIC:
            return [self._enlarged(pair) for pair in pairs]
        if method in self.job.others:
            return [self._found(pair, self.job.others[method]) for pair in pairs]
        return self._restored(pairs, self.restorers[method])

    def _enlarged(self, pair: Pair) -> Outcome:
        started = time.perf_counter()
        return Outcome(bicubic(pair.lq, self.job.scale), time.perf_counter() - started)

    def _found(self, pair: Pair, other: OtherMethod) -> Outcome:
        try:
            return Outcome(other.restored(pair, self.job.scale))
        except ValueError as error:
            return Outcome(error=" ".join(str(error).split()))

    def _restored(self, pairs: Sequence[Pair], restorer: Restorer) -> list[Outcome]:
        seeds = [image_seed(self.job.seed, pair.key) for pair in pairs]
        masks = [None if pair.mask is None else pair.mask.astype(np.uint8) * 255 for pair in pairs]
        started = time.perf_counter()
        try:
            images = restorer.restore_images([pair.lq for pair in pairs], seeds, masks)
        except ValueError as error:
            return [Outcome(error=" ".join(str(error).split()))] * len(pairs)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(pairs) from error
        seconds = (time.perf_counter() - started) / len(pairs)
        return [Outcome(image, seconds) for image in images]

    def _row(self, pair: Pair, method: str, outcome: Outcome) -> dict[str, Any]:
        row: dict[str, Any] = {
            "key": pair.key,
            "group": pair.group,
            "method": method,
            "height": pair.hq.shape[0],
            "width": pair.hq.shape[1],
            "record": json.dumps(pair.record, sort_keys=True),
        }
        if outcome.image is None:
            return row | {"status": FAILED, "error": outcome.error}
        if self.job.save_restored and method in self.restorers:
            row["image"] = f"restored/{method}/{pair.key}.png"
            storage.write_bytes(storage.join(self.job.out, row["image"]), encode_png(outcome.image))
        if outcome.seconds is not None:
            row |= {"seconds": outcome.seconds, "device": self.device_words}
        try:
            return row | {"status": OK, **self.meter.measure(outcome.image, pair.hq)}
        except MEMORY_ERRORS as error:  # LPIPS looks at the whole image at once
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory([pair]) from error

    def _out_of_memory(self, pairs: Sequence[Pair]) -> JobError:
        height, width = pairs[0].hq.shape[:2]
        return JobError(
            f"image {pairs[0].key}: memory does not hold {len(pairs)} of {width}x{height} pixels; lower "
            f"evaluation.batch_size ({self.job.batch_size}) or evaluation.tile_size ({self.job.tile_size}), or leave "
            "lpips_alex and lpips_vgg out of evaluation.metrics, and run the same command again"
        )

    def _check_size(self, pair: Pair) -> None:
        height, width = (side * self.job.scale for side in pair.lq.shape[:2])
        if (height, width) != pair.hq.shape[:2]:
            raise ValueError(
                f"LQ is {pair.lq.shape[1]}x{pair.lq.shape[0]} and HQ {pair.hq.shape[1]}x{pair.hq.shape[0]} pixels; "
                f"at scale {self.job.scale} HQ must be {width}x{height}"
            )
        if pair.mask is not None and pair.mask.shape != pair.lq.shape[:2]:
            raise ValueError(
                f"the mask is {pair.mask.shape[1]}x{pair.mask.shape[0]} and LQ {pair.lq.shape[1]}x{pair.lq.shape[0]} "
                "pixels; they must be of one size"
            )


def device_words(device: str) -> str:
    """The GPU's or the processor's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
