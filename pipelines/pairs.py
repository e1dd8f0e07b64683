"""make_pairs: photos -> shards of HQ/LQ pairs.

The plan fixes everything beforehand: image order, and for every sample its crop, flip and degradation seed. A shard is
made by one Ray task, start to end, and its bytes depend on the plan and its number alone.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from degradations import Degradation, build
from infra import storage
from infra.cluster import cluster, run_bounded
from infra.errors import JobError, UsageError
from infra.progress import progress
from infra.recipe import Recipe, digest
from pipelines.card import write_card
from pipelines.codec import CODEC
from pipelines.config import ShardsConfig
from pipelines.dataset import SCHEMA_VERSION, freeze_plan
from pipelines.decode import Rejected, decode_rgb
from pipelines.shard import (
    CommitRecord,
    Reject,
    clear_leftovers,
    committed_shards,
    encode_json,
    encode_png,
    make_shard,
    sample_key,
)
from pipelines.source import Source, SourceImage, list_source


@dataclass(frozen=True)
class PairPlan:
    """Everything a worker needs besides its shard number and its images."""

    url: str
    scale: int
    shards: ShardsConfig
    degradation: dict[str, Any]

    def shard_images(self, order: np.ndarray, images: tuple[SourceImage, ...], shard: int) -> list[SourceImage]:
        """The image of every slot of a shard; variants of one image are neighbours, so it is decoded once."""
        first = shard * self.shards.samples_per_shard
        last = min(first + self.shards.samples_per_shard, len(images) * self.shards.variants)
        return [images[order[index // self.shards.variants]] for index in range(first, last)]


def make_pairs(recipe: Recipe, source: str, out: str, workers: int | None = None, dry_run: bool = False) -> str:
    """Synthesise the pairs of a recipe into shards below `out`; returns a one-line summary.

    Raises UsageError for a wrong recipe or source, or an `out` that holds another plan; JobError if more samples were
    rejected than `shards.max_reject_rate` allows (what was written stays, and the report says which).
    """
    listed = list_source(source)
    plan, document = plan_pairs(recipe, listed, out)
    num_shards, num_samples = document["num_shards"], document["num_samples_planned"]
    if dry_run:
        size = plan.shards.hq_size
        return (
            f"plan {document['plan_hash'][:12]}: {len(listed.images)} images x {plan.shards.variants} variants = "
            f"{num_samples} pairs of {size}x{size} and {size // plan.scale}x{size // plan.scale} in {num_shards} "
            f"shards -> {out}"
        )
    freeze_plan(out, document)
    done = committed_shards(out)
    todo = [shard for shard in range(num_shards) if shard not in done]
    if todo:
        order = image_order(len(listed.images), plan.shards.seed)
        with cluster(workers) as ray_cluster:
            plan_ref = ray.put(plan)
            jobs = ((shard, plan.shard_images(order, listed.images, shard)) for shard in todo)
            finished = run_bounded(
                lambda job: _make_pair_shard.remote(plan_ref, *job), jobs, at_once=ray_cluster.num_workers
            )
            already = sum(record.num_samples + len(record.rejects) for record in done.values())
            with progress("pairs", total=num_samples, unit="pairs", initial=already) as bar:
                for record in finished:
                    done[record.shard] = record
                    bar.advance(record.num_samples + len(record.rejects), rejected=_count_rejects(done))
    clear_leftovers(out, done.values())
    write_card(out, document, [done[shard] for shard in range(num_shards)])
    _check_rejects(out, plan.shards, done, num_samples)
    made = sum(record.num_samples for record in done.values())
    return f"{made} pairs in {num_shards} shards ({len(todo)} made now, {_count_rejects(done)} rejected) -> {out}"


def plan_pairs(recipe: Recipe, source: Source, out: str) -> tuple[PairPlan, dict[str, Any]]:
    """The worker's view of the plan and the document that becomes dataset.json. Raises UsageError."""
    shards = recipe.section("shards", ShardsConfig)
    try:
        section = build(recipe.raw.get("degradation", {}), scale=recipe.scale).section.model_dump(mode="json")
    except ValueError as error:
        raise UsageError(str(error)) from error
    if section["name"] == "paired":
        raise UsageError("degradation.name: 'paired' is not supported by make_pairs yet; use it from Python")
    if shards.hq_size % recipe.scale:
        raise UsageError(f"shards.hq_size: {shards.hq_size} is not a multiple of scale {recipe.scale}; change one")
    num_samples = len(source.images) * shards.variants
    identity = {
        "kind": "pairs",
        "task": recipe.task,
        "scale": recipe.scale,
        "degradation": section,
        "shards": shards.model_dump(mode="json", exclude={"max_reject_rate"}),
        "source": {"digest": source.digest, "num_images": len(source.images)},
        "codec": CODEC,
    }
    document = {
        "schema_version": SCHEMA_VERSION,
        "identity": identity,
        "plan_hash": digest(identity),
        "num_shards": -(-num_samples // shards.samples_per_shard),
        "num_samples_planned": num_samples,
        "source_uri": source.uri,
        "recipe": dict(recipe.raw),
    }
    return PairPlan(out, recipe.scale, shards, section), document


def image_order(num_images: int, seed: int) -> np.ndarray:
    """A fixed shuffle, so that neighbouring shards do not hold one folder or class each."""
    return np.random.Generator(np.random.SFC64(seed)).permutation(num_images)


def crop_generator(seed: int, name: str, variant: int) -> np.random.Generator:
    """Randomness of one sample's crop: depends on the dataset's seed, the image's name and the variant alone."""
    hashed = hashlib.blake2b(f"crop\0{seed}\0{name}\0{variant}".encode(), digest_size=16)
    return np.random.Generator(np.random.SFC64(int.from_bytes(hashed.digest(), "big")))


@ray.remote(num_cpus=1, max_retries=3)
def _make_pair_shard(plan: PairPlan, shard: int, images: list[SourceImage]) -> CommitRecord:
    rejects: list[Reject] = []
    degrade = build(plan.degradation, scale=plan.scale)
    return make_shard(plan.url, shard, _pair_samples(plan, degrade, shard, images, rejects), rejects)


def _pair_samples(
    plan: PairPlan, degrade: Degradation, shard: int, images: list[SourceImage], rejects: list[Reject]
) -> Iterator[dict[str, Any]]:
    """Samples of one shard in plan order; what cannot be used is appended to `rejects`, never replaced."""
    decoded: tuple[str, np.ndarray | Rejected] = ("", Rejected("unreadable", "nothing decoded yet"))
    for slot, image in enumerate(images):
        variant = (shard * plan.shards.samples_per_shard + slot) % plan.shards.variants
        if decoded[0] != image.name:
            decoded = (image.name, _load(image, plan.shards.hq_size))
        pixels = decoded[1]
        if isinstance(pixels, Rejected):
            rejects.append(Reject(image.name, pixels.reason, pixels.detail))
            continue
        hq, geometry = _crop(pixels, plan.shards, crop_generator(plan.shards.seed, image.name, variant))
        pair = degrade(hq, plan.shards.seed, key=image.name, variant=variant)
        record = {"source": image.name, "variant": variant, **geometry, "degradation": pair.record}
        fields = {"hq.png": encode_png(pair.hq), "lq.png": encode_png(pair.lq), "json": encode_json(record)}
        if pair.mask is not None:
            fields["mask.png"] = encode_png(pair.mask * 255)  # 1 = missing; stored white, so that a person sees it
        yield {"__key__": sample_key(shard, slot), **fields}


def _load(image: SourceImage, hq_size: int) -> np.ndarray | Rejected:
    try:
        pixels = decode_rgb(storage.read_bytes(image.url))
    except FileNotFoundError as error:
        return Rejected("missing", str(error))
    except Rejected as rejected:
        return rejected
    height, width = pixels.shape[:2]
    if min(height, width) < hq_size:
        return Rejected("too_small", f"{width}x{height}, crops are {hq_size}x{hq_size}")
    return pixels


def _crop(pixels: np.ndarray, shards: ShardsConfig, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
    """A random square crop, mirrored with the recipe's probability; and where it was taken."""
    size = shards.hq_size
    top = int(rng.integers(0, pixels.shape[0] - size + 1))
    left = int(rng.integers(0, pixels.shape[1] - size + 1))
    mirrored = bool(rng.random() < shards.horizontal_flip_prob)
    hq = pixels[top : top + size, left : left + size]
    hq = np.ascontiguousarray(hq[:, ::-1] if mirrored else hq)
    return hq, {"crop": {"top": top, "left": left, "size": size}, "horizontal_flip": mirrored}


def _count_rejects(done: dict[int, CommitRecord]) -> int:
    return sum(len(record.rejects) for record in done.values())


def _check_rejects(out: str, shards: ShardsConfig, done: dict[int, CommitRecord], num_samples: int) -> None:
    rejected = _count_rejects(done)
    if rejected == num_samples or rejected > shards.max_reject_rate * num_samples:
        reasons = sorted({reject.reason for record in done.values() for reject in record.rejects})
        raise JobError(
            f"{rejected} of {num_samples} samples were rejected ({', '.join(reasons)}), more than "
            f"shards.max_reject_rate={shards.max_reject_rate} allows; see {storage.join(out, 'rejects.jsonl')}, "
            "then mend the source or raise the rate"
        )
