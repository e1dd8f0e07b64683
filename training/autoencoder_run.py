"""An autoencoder run from start to end: check, train, export."""

import json
import tempfile
from pathlib import Path
from typing import Any

from infra import storage
from infra.recipe import Recipe
from resshift.vqgan import VQGAN
from resshift.weights import AUTOENCODER_JSON, AUTOENCODER_WEIGHTS, save_vqgan
from training.agreement import agree
from training.autoencoder_task import AutoencoderTask, open_autoencoder_task
from training.autoencoder_trainer import train_autoencoder
from training.engine import join_processes, plan_batches
from training.preemption import Preemption
from training.tracker import track

TRAINED = "trained.json"


def run_autoencoder_training(recipe: Recipe, data: str, out: str, dry_run: bool = False) -> str:
    """Train the VQGAN of a recipe on the HQ images of `data`; returns a line for the user, "" in other ranks.

    OUT/autoencoder.json and .safetensors are what make_latents takes as autoencoder.weights. The same call goes on
    where an earlier one stopped. Raises UsageError for what does not fit, JobError for what fails.
    """
    processes = join_processes()
    task = open_autoencoder_task(recipe, data)
    if dry_run:
        return json.dumps(_plan(task, out), indent=2) if processes.is_main else ""
    plan_batches(task.config, processes.world_size, "training.autoencoder")
    agree(processes, task.resolved, task.order, out)
    location = storage.join(out, TRAINED)
    if storage.exists(location) and storage.read_json(location) == _identity(task):
        return f"already trained: {storage.join(out, AUTOENCODER_JSON)}" if processes.is_main else ""
    tags = {"dataset.url": data, "dataset.digest": task.dataset.digest, "stage": "autoencoder"}
    # From here on SIGTERM waits for the end of a step: MLflow may be in the middle of setting up its database.
    with (
        Preemption(processes) as preemption,
        track(processes, out, f"{recipe.name} autoencoder", task.resolved, tags) as tracker,
    ):
        vqgan = train_autoencoder(task, out, processes, tracker, preemption)
        if not processes.is_main:
            return ""
        _export(vqgan, out)
        tracker.deliver()
        storage.write_json(location, _identity(task))
    return f"trained: {storage.join(out, AUTOENCODER_JSON)} (latent_scale {vqgan.latent_scale:.4g})"


def _plan(task: AutoencoderTask, out: str) -> dict[str, Any]:
    return {
        "recipe": task.resolved,
        "dataset": {"url": task.dataset.url, "samples": task.dataset.num_samples, "shards": len(task.dataset.shards)},
        "epochs": round(task.config.num_steps / task.order.steps_per_epoch, 2),
        "parameters": sum(parameter.numel() for parameter in task.build_autoencoder().parameters()),
        "out": out,
    }


def _identity(task: AutoencoderTask) -> dict[str, Any]:
    identity: dict[str, Any] = json.loads(json.dumps({"recipe": task.resolved}))
    return identity


def _export(vqgan: VQGAN, out: str) -> None:
    with tempfile.TemporaryDirectory(prefix="autoencoder-") as scratch:
        save_vqgan(vqgan, scratch)
        for name in (AUTOENCODER_WEIGHTS, AUTOENCODER_JSON):  # the description last: with it the folder is complete
            storage.upload(Path(scratch, name), storage.join(out, name))
