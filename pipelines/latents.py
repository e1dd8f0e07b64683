"""make_latents: pair shards -> latent shards, the same samples with what the autoencoder makes of HQ and LQ.

Latents are raw (neither scaled nor quantised) float16. The autoencoder itself travels with the dataset, and its
fingerprint stands in the plan, so that nobody has to guess later what encoded them.
"""

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.util import ActorPool

from infra import storage
from infra.cluster import cluster
from infra.errors import UsageError
from infra.progress import progress
from infra.recipe import Recipe, digest
from pipelines.autoencoder import AUTOENCODER_FILES, AUTOENCODER_FOLDER, AutoencoderConfig, local_autoencoder
from pipelines.card import write_card
from pipelines.dataset import SCHEMA_VERSION, Dataset, freeze_plan, iter_shard, open_dataset
from pipelines.shard import (
    CommitRecord,
    clear_leftovers,
    committed_shards,
    encode_json,
    encode_npy,
    encode_png,
    make_shard,
)
from resshift.images import image_to_tensor, upscale_lq
from resshift.weights import fingerprint, load_vqgan

PREPROCESSING = "RGB uint8 / 127.5 - 1; LQ enlarged to HQ size by bicubic interpolation; latent before quantisation"


def make_latents(recipe: Recipe, pairs: str, out: str, workers: int | None = None, dry_run: bool = False) -> str:
    """Encode every pair of `pairs` with the recipe's autoencoder into latent shards below `out`.

    Returns a one-line summary. Raises UsageError for a recipe without autoencoder, weights that do not exist or do not
    fit, pairs of another task or scale, or an `out` that holds another plan.
    """
    config = recipe.section("autoencoder", AutoencoderConfig)
    dataset = open_dataset(pairs)
    _check_pairs(recipe, dataset)
    with tempfile.TemporaryDirectory(prefix="autoencoder-") as cache:
        weights = local_autoencoder(config, Path(cache))
        document = _plan(recipe, config, dataset, weights)
        if dry_run:
            encoder = document["identity"]["autoencoder"]["weights_sha256"][:12]
            return f"plan {document['plan_hash'][:12]}: {dataset.num_samples} pairs, autoencoder {encoder} -> {out}"
        freeze_plan(out, document)
        done = committed_shards(out)
        todo = [shard for shard in range(len(dataset.shards)) if shard not in done]
        if todo:
            for name in AUTOENCODER_FILES:
                storage.upload(weights / name, storage.join(out, AUTOENCODER_FOLDER, name))
            with cluster(workers) as ray_cluster:
                num_gpus = 1 if ray_cluster.num_gpus else 0
                actors = ray_cluster.num_gpus or min(ray_cluster.num_workers, len(todo))
                actor_class = ray.remote(num_cpus=1, num_gpus=num_gpus, max_restarts=3, max_task_retries=3)(_Encoder)
                encoders = [
                    actor_class.remote(str(weights), config, dataset, out)
                    for _ in range(min(actors, workers or actors))
                ]
                already = sum(record.num_samples for record in done.values())
                with progress("latents", total=dataset.num_samples, unit="pairs", initial=already) as bar:
                    shards = ActorPool(encoders).map_unordered(lambda actor, shard: actor.encode.remote(shard), todo)
                    for record in shards:
                        done[record.shard] = record
                        bar.advance(record.num_samples)
    clear_leftovers(out, done.values())
    write_card(out, document, [done[shard] for shard in range(len(dataset.shards))])
    return f"{dataset.num_samples} latents in {len(dataset.shards)} shards ({len(todo)} made now) -> {out}"


def _plan(recipe: Recipe, config: AutoencoderConfig, dataset: Dataset, weights: Path) -> dict[str, Any]:
    try:
        autoencoder = load_vqgan(weights)
    except ValueError as error:
        raise UsageError(f"autoencoder.weights '{config.weights}': {error}") from error
    if autoencoder.config != config.network:
        raise UsageError(
            f"autoencoder.weights '{config.weights}': were trained for another network than autoencoder.network; "
            f"they hold {autoencoder.config}"
        )
    identity = {
        "kind": "latents",
        "task": recipe.task,
        "scale": recipe.scale,
        "pairs": {"plan_hash": dataset.plan["plan_hash"], "digest": dataset.digest},
        "autoencoder": {**fingerprint(autoencoder), "input": PREPROCESSING, "precision": config.precision},
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": identity,
        "plan_hash": digest(identity),
        "num_shards": len(dataset.shards),
        "num_samples_planned": dataset.num_samples,
        "source_uri": dataset.url,
        "recipe": dict(recipe.raw),
    }


def _check_pairs(recipe: Recipe, dataset: Dataset) -> None:
    identity = dataset.plan["identity"]
    for field, wanted in (("kind", "pairs"), ("task", recipe.task), ("scale", recipe.scale)):
        if identity[field] != wanted:
            raise UsageError(f"pairs '{dataset.url}': {field} is {identity[field]!r}, this run needs {wanted!r}")


class _Encoder:
    """Encodes whole shards with one autoencoder, on a GPU if Ray gave it one."""

    def __init__(self, weights: str, config: AutoencoderConfig, dataset: Dataset, url: str) -> None:
        self.device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        # Tensor cores want channels_last; on a CPU it makes GroupNorm many times slower.
        self.layout = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        self.autoencoder = load_vqgan(Path(weights), self.device)
        self.autoencoder.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.config, self.dataset, self.url = config, dataset, url

    def encode(self, shard: int) -> CommitRecord:
        return make_shard(self.url, shard, self._samples(shard))

    def _samples(self, shard: int) -> Iterator[dict[str, Any]]:
        samples = iter_shard(self.dataset, shard, check=True)
        while batch := list(islice(samples, self.config.batch_size)):
            z_hq = self._encode(torch.cat([image_to_tensor(sample["hq"]) for sample in batch]), scale=1)
            lq_scale = batch[0]["hq"].shape[0] // batch[0]["lq"].shape[0]
            z_lq = self._encode(torch.cat([image_to_tensor(sample["lq"]) for sample in batch]), scale=lq_scale)
            for sample, hq_latent, lq_latent in zip(batch, z_hq, z_lq, strict=True):
                yield {
                    "__key__": sample["key"],
                    "hq.png": encode_png(sample["hq"]),
                    "lq.png": encode_png(sample["lq"]),
                    "hq_latent.npy": encode_npy(hq_latent),
                    "lq_latent.npy": encode_npy(lq_latent),
                    "json": encode_json(sample["record"]),
                    **({"mask.png": encode_png(sample["mask"])} if "mask" in sample else {}),
                }

    @torch.inference_mode()
    def _encode(self, images: torch.Tensor, scale: int) -> np.ndarray:
        """(B, 3, h, w) in [-1, 1] -> float16 (B, C, h*scale/f, w*scale/f)."""
        images = upscale_lq(images.to(self.device), scale).to(memory_format=self.layout)
        low = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            latents = self.autoencoder.encode(images)
        return latents.to(torch.float16).cpu().numpy()
