"""A denoiser run from start to end: check, train, export a bundle, register the model version."""

import json
from typing import Any

from infra import storage
from infra.recipe import Recipe
from resshift.swin_unet import SwinUNet
from training.agreement import agree
from training.denoiser_export import publish
from training.denoiser_task import DenoiserTask, open_task
from training.denoiser_trainer import train_denoiser
from training.engine import join_processes, plan_batches
from training.preemption import Preemption
from training.tracker import Tracker, track

MODEL_FOLDER = "model"
REGISTERED = "registered.json"


def run_training(recipe: Recipe, data: str, out: str, dry_run: bool = False) -> str:
    """Train the denoiser of a recipe on `data` and register it; returns a line for the user, "" in other ranks.

    The same call goes on where an earlier one stopped, and re-uses a model version that it has registered already.
    Raises UsageError for what does not fit, JobError for what fails.
    """
    processes = join_processes()
    task = open_task(recipe, data)
    if dry_run:
        return json.dumps(_plan(task, out), indent=2) if processes.is_main else ""
    plan_batches(task.config, processes.world_size)
    agree(processes, task.resolved, task.order, out)
    earlier = _registered(task, out)
    if earlier is not None:
        done = f"already registered: {earlier['model']} version {earlier['version']} ({earlier['bundle']})"
        return done if processes.is_main else ""
    tags = {"dataset.url": data, "dataset.digest": task.dataset.digest, "stage": "denoiser"}
    # From here on SIGTERM waits for the end of a step: MLflow may be in the middle of setting up its database.
    with (
        Preemption(processes) as preemption,
        track(processes, out, f"{recipe.name} denoiser", task.resolved, tags) as tracker,
    ):
        denoiser = train_denoiser(task, out, processes, tracker, preemption)
        return _export(task, denoiser, out, tracker) if processes.is_main else ""


def _plan(task: DenoiserTask, out: str) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in task.build_denoiser().parameters())
    return {
        "recipe": task.resolved,
        "dataset": {"url": task.dataset.url, "samples": task.dataset.num_samples, "shards": len(task.dataset.shards)},
        "epochs": round(task.config.num_steps / task.order.steps_per_epoch, 2),
        "parameters": parameters,
        "out": out,
    }


def _identity(task: DenoiserTask) -> dict[str, Any]:
    """What a registered version was trained from, as JSON data."""
    return json.loads(json.dumps({"step": task.config.num_steps, "recipe": task.resolved}))  # type: ignore[no-any-return]


def _registered(task: DenoiserTask, out: str) -> dict[str, Any] | None:
    """What OUT/registered.json says, if it is about this very training."""
    location = storage.join(out, REGISTERED)
    if not storage.exists(location):
        return None
    earlier: dict[str, Any] = storage.read_json(location)
    return earlier if earlier["identity"] == _identity(task) else None


def _export(task: DenoiserTask, denoiser: SwinUNet, out: str, tracker: Tracker) -> str:
    """Write OUT/model, register it, and note the version in OUT/registered.json. Raises JobError if MLflow is away."""
    assert tracker.run_id is not None, "the main process has a run"
    tracker.deliver()
    bundle = storage.join(out, MODEL_FOLDER)
    registered = publish(task, denoiser, bundle, task.config.num_steps, tracker.run_id)
    storage.write_json(storage.join(out, REGISTERED), {**registered, "identity": _identity(task)})
    return f"registered: {registered['model']} version {registered['version']} ({bundle})"
