"""The stages around the encoder: one task reads and decodes a shard of pairs, and packs and uploads it with latents.

A shard keeps BATCHES_AHEAD batches with the encoders: decoded images wait there for an encoder, never the other way
round, and no more of them are in memory.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from infra.errors import JobError
from pipelines.dataset import Dataset, decode_sample
from pipelines.latents_pool import Batch, EncoderPool
from pipelines.shard import CommitRecord, encode_npy, make_shard, read_shard

BATCHES_AHEAD = 4

Members = dict[str, Any]
"""A sample as it is stored: "__key__", and the bytes of its members."""


def make_latent_shard(pairs: Dataset, shard: int, url: str, batch_size: int, encoders: list[Any]) -> CommitRecord:
    """Write and commit the latent shard of the pair shard with this number; returns the record that stands."""
    return make_shard(url, shard, _latent_samples(pairs, pairs.shards[shard], batch_size, encoders))


def _latent_samples(pairs: Dataset, record: CommitRecord, batch_size: int, encoders: list[Any]) -> Iterator[Members]:
    """Samples in order. Which samples share a batch follows from their places alone, not from who encodes them."""
    samples, count = read_shard(pairs.url, record, check=True), 0
    pool = EncoderPool(encoders, batch_size)
    waiting: deque[tuple[list[Members], Batch]] = deque()
    while members := list(islice(samples, batch_size)):
        turn = record.shard + count // batch_size
        count += len(members)
        waiting.append((members, pool.submit(turn, *_decoded(pairs.url, members, batch_size))))
        if len(waiting) == BATCHES_AHEAD:
            yield from _with_latents(pool, *waiting.popleft())
    while waiting:
        yield from _with_latents(pool, *waiting.popleft())
    if count != record.num_samples:
        raise JobError(f"{pairs.url} shard {record.shard}: holds {count} samples, its record says {record.num_samples}")


def _decoded(url: str, batch: list[Members], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """HQ (B, H, W, 3) and LQ (B, h, w, 3); a last batch is filled up with its last sample, to the size of all."""
    decoded = [decode_sample(url, sample["__key__"], _images(sample), ["hq", "lq"]) for sample in batch]
    decoded += decoded[-1:] * (batch_size - len(batch))
    return np.stack([sample["hq"] for sample in decoded]), np.stack([sample["lq"] for sample in decoded])


def _images(sample: Members) -> dict[str, bytes]:
    return {name: data for name, data in sample.items() if name in ("hq.png", "lq.png")}


def _with_latents(pool: EncoderPool, members: list[Members], batch: Batch) -> Iterator[Members]:
    """The stored members as they are, not encoded anew, and the two latents."""
    z_hq, z_lq = pool.latents(batch)
    for place, sample in enumerate(members):
        yield {**sample, "hq_latent.npy": encode_npy(z_hq[place]), "lq_latent.npy": encode_npy(z_lq[place])}
