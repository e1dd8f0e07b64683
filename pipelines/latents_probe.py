"""A dry run of make_latents: from a few real batches, what it will take. Nothing is stored."""

import time
from typing import Any

import numpy as np

from pipelines.card_samples import first_samples
from pipelines.dataset import Dataset
from pipelines.estimate import Probe, bytes_in_tar
from pipelines.latents_pool import EncoderPool
from pipelines.shard import encode_npy

TIMED_BATCHES = 2


def probe_latents(dataset: Dataset, batch_size: int, encoder: Any) -> Probe:
    """Read and decode the beginning of a shard, and encode batches of it. `encoder`: an actor of `Encoder`."""
    record = next(record for record in dataset.shards if record.num_samples)
    start = time.perf_counter()
    samples = first_samples(dataset.url, record)
    read_seconds = (time.perf_counter() - start) / len(samples)
    batch = [samples[place % len(samples)] for place in range(batch_size)]
    images = np.stack([sample["hq"] for sample in batch]), np.stack([sample["lq"] for sample in batch])
    pool = EncoderPool([encoder], batch_size)
    z_hq, z_lq = pool.latents(pool.submit(0, *images))  # loads, compiles and tunes, once in a job
    start = time.perf_counter()
    for _ in range(TIMED_BATCHES):
        pool.latents(pool.submit(0, *images))
    encode_seconds = (time.perf_counter() - start) / (TIMED_BATCHES * batch_size)
    latents = sum(bytes_in_tar(encode_npy(z)) for z in (z_hq[0], z_lq[0]))
    return Probe(
        samples=len(samples),
        cpu_seconds=read_seconds,
        gpu_seconds=encode_seconds,
        stored_bytes=record.bytes / record.num_samples + latents,
    )
