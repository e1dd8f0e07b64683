"""make_latents: pair shards -> latent shards, the same samples with what the autoencoder makes of HQ and LQ.

Latents are raw (neither scaled nor quantised) float16. The autoencoder itself travels with the dataset, and its
fingerprint stands in the plan, so that nobody has to guess later what encoded them.

Two stages scale by themselves: tasks that read, decode, pack and upload (pipelines.latents_shard), and encoders, one on
every GPU or CPU core (pipelines.latents_encoder). A bounded number of batches waits between them; those of an encoder
that is lost go to another one (pipelines.latents_pool).
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from infra import storage
from infra.cluster import Cluster, cluster, run_bounded
from infra.errors import UsageError
from infra.progress import progress
from infra.recipe import Recipe, digest
from pipelines.autoencoder import AUTOENCODER_FILES, AUTOENCODER_FOLDER, AutoencoderConfig, local_autoencoder
from pipelines.card import write_card
from pipelines.dataset import SCHEMA_VERSION, Dataset, check_plan, freeze_plan, open_dataset
from pipelines.estimate import Prices, estimate
from pipelines.latents_encoder import QUESTIONS, Encoder
from pipelines.latents_pool import mean_busy_share
from pipelines.latents_probe import probe_latents
from pipelines.latents_shard import make_latent_shard
from pipelines.shard import CommitRecord, clear_leftovers, committed_shards, records_of_all
from resshift.weights import fingerprint, load_vqgan

PREPROCESSING = "RGB uint8 / 127.5 - 1; LQ enlarged to HQ size by bicubic interpolation; latent before quantisation"


def make_latents(
    recipe: Recipe,
    pairs: str,
    out: str,
    workers: int | None = None,
    dry_run: bool = False,
    prices: Prices | None = None,
) -> str:
    """Encode every pair of `pairs` with the recipe's autoencoder into latent shards below `out`.

    Returns a one-line summary; with `dry_run`, nothing is stored and it says what the job will take, and its cost where
    `prices` are known. Raises UsageError for a recipe without autoencoder, weights that do not exist or do not
    fit, pairs of another task or scale, or an `out` that holds another plan.
    """
    config = recipe.section("autoencoder", AutoencoderConfig)
    dataset = open_dataset(pairs)
    _check_pairs(recipe, dataset)
    with tempfile.TemporaryDirectory(prefix="autoencoder-") as cache:
        weights = local_autoencoder(config, Path(cache))
        document = _plan(recipe, config, dataset, weights)
        if dry_run:
            return _dry_run(config, dataset, document, out, workers, prices)
        freeze_plan(out, document)
        done = committed_shards(out)
        todo = [shard for shard in range(len(dataset.shards)) if shard not in done]
        if todo:
            for name in AUTOENCODER_FILES:
                storage.upload(weights / name, storage.join(out, AUTOENCODER_FOLDER, name))
    busy = _make_shards(config, dataset, out, todo, done, workers) if todo else None
    records = records_of_all(out, done, len(dataset.shards))
    clear_leftovers(out, records)
    write_card(out, document, records)
    summary = f"{dataset.num_samples} latents in {len(records)} shards ({len(todo)} made now) -> {out}"
    return summary if busy is None else f"{summary}; encoders computing {busy:.0%} of the time"


def _make_shards(
    config: AutoencoderConfig,
    dataset: Dataset,
    out: str,
    todo: list[int],
    done: dict[int, CommitRecord],
    workers: int | None,
) -> float | None:
    """Make the shards of `todo`, enter their records into `done`; returns how busy the encoders were, 0 to 1."""
    with cluster(workers) as ray_cluster:
        out = storage.absolute(out)
        encoders = _encoders(ray_cluster, config, storage.join(out, AUTOENCODER_FOLDER), len(todo))
        # The stage that sets the pace owns the cores: beside GPUs these tasks, without them the encoders.
        task = ray.remote(num_cpus=1 if ray_cluster.num_gpus else 0, max_retries=3)(make_latent_shard)
        pairs = ray.put(replace(dataset, url=storage.absolute(dataset.url)))
        already = sum(record.num_samples for record in done.values())
        try:
            with progress("latents", total=dataset.num_samples, unit="pairs", initial=already) as bar:
                for record in run_bounded(
                    lambda shard: task.remote(pairs, shard, out, config.batch_size, encoders),
                    todo,
                    at_once=max(ray_cluster.num_workers, len(encoders)) + 1,
                ):
                    done[record.shard] = record
                    bar.advance(record.num_samples)
            return mean_busy_share(encoders)
        finally:
            for encoder in encoders:  # an error that is kept keeps them, and what they take of the cluster, too
                ray.kill(encoder)


def _dry_run(
    config: AutoencoderConfig,
    dataset: Dataset,
    document: dict[str, Any],
    out: str,
    workers: int | None,
    prices: Prices | None,
) -> str:
    done = committed_shards(out) if check_plan(out, document) else {}
    left = dataset.num_samples - sum(record.num_samples for record in done.values())
    encoder = document["identity"]["autoencoder"]["weights_sha256"][:12]
    summary = (
        f"plan {document['plan_hash'][:12]}: {dataset.num_samples} pairs in {len(dataset.shards)} shards, {len(done)} "
        f"of them made already, autoencoder {encoder} -> {out}"
    )
    assert config.weights is not None, "checked when they were fetched"
    with cluster(workers) as ray_cluster:
        (actor,) = _encoders(ray_cluster, config, storage.absolute(config.weights), most=1)
        probe = probe_latents(dataset, config.batch_size, actor)
        ray.kill(actor)
        workers = workers or ray_cluster.num_workers
        gpus = min(ray_cluster.num_gpus, workers)
    return f"{summary}\n{estimate(left, 'pairs', probe, workers, gpus, prices)}"


def _encoders(ray_cluster: Cluster, config: AutoencoderConfig, url: str, most: int) -> list[Any]:
    """One encoder on every GPU, or on as many cores as there may be workers; at most `most`. `url`: its weights."""
    gpus = ray_cluster.num_gpus
    count = min(ray_cluster.num_workers, gpus or most, most)
    # With a second call in the actor, a GPU computes while Ray brings the next batch. Ray retries none of them: it
    # would wait for this very encoder, which may never come back (pipelines.latents_pool).
    actor = ray.remote(  # type: ignore[call-overload]  # its annotation knows no concurrency_groups
        num_cpus=0 if gpus else 1, num_gpus=1 if gpus else 0, max_restarts=3, max_task_retries=0,
        concurrency_groups={QUESTIONS: 1},
    )(Encoder).options(max_concurrency=2 if gpus else 1)  # fmt: skip
    return [actor.remote(url, config) for _ in range(count)]


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
        "autoencoder": {
            **fingerprint(autoencoder),
            "latent_scale": autoencoder.latent_scale,
            "input": PREPROCESSING,
            "precision": config.precision,
            "compile": config.compile,
            "batch_size": config.batch_size,
            "stored": "float16, raw: not multiplied with latent_scale, not quantised",
        },
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": identity,
        "plan_hash": digest(identity),
        "num_shards": len(dataset.shards),
        "num_samples_planned": dataset.num_samples,
        "source_uri": dataset.url,
        "recipe": {**recipe.raw, "shards": dataset.shards_config.model_dump(mode="json")},
    }


def _check_pairs(recipe: Recipe, dataset: Dataset) -> None:
    identity = dataset.plan["identity"]
    for field, wanted in (("kind", "pairs"), ("task", recipe.task), ("scale", recipe.scale)):
        if identity.get(field) != wanted:
            raise UsageError(f"pairs '{dataset.url}': {field} is {identity.get(field)!r}, this run needs {wanted!r}")
    if not dataset.num_samples:
        raise UsageError(
            f"pairs '{dataset.url}': holds no sample, all of its images were rejected; see its rejects.jsonl, and give "
            "pairs of other images"
        )
