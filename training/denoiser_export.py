"""A trained denoiser becomes a bundle and a model version: at the end of a run, or from one of its checkpoints."""

import json
import tempfile
from pathlib import Path
from typing import Any

import mlflow

from infra import storage
from infra.errors import JobError, UsageError
from infra.models import register
from infra.recipe import Recipe
from infra.tracking import start_run, tracking_errors, tracking_uri
from resshift.swin_unet import SwinUNet
from training.checkpoint import STATE
from training.denoiser_task import DenoiserTask, open_task
from training.ema import Ema
from training.saved import Saved, best_of, copied_to, refuse_another_recipe, whole_checkpoints
from training.tensor_file import read_tree
from training.tracker import RUN_FILE

BEST, NEWEST = "best", "newest"


def publish(task: DenoiserTask, denoiser: SwinUNet, bundle: str, step: int, run_id: str) -> dict[str, Any]:
    """Write the denoiser, with the task's autoencoder and schedule, to the folder or URL `bundle`, and register it.

    step: optimizer steps behind these weights. run_id: the MLflow run that the version belongs to. Returns model,
    version, uri, bundle and run_id. Raises JobError if MLflow is away.
    """
    with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
        folder = Path(scratch, "model")
        task.restorer(denoiser.to("cpu")).save(folder)
        (folder / "recipe.json").write_text(json.dumps({**task.recipe.raw, **task.resolved}, indent=2) + "\n")
        for file in sorted(folder.rglob("*")):
            storage.upload(file, storage.join(bundle, *file.relative_to(folder).parts))
        tags = {"dataset.digest": task.dataset.digest, "step": str(step)}
        version = register(folder, task.recipe.name, run_id=run_id, tags=tags)
    return {
        "model": task.recipe.name,
        "version": version,
        "uri": f"models:/{task.recipe.name}/{version}",
        "bundle": bundle,
        "run_id": run_id,
    }


def export_checkpoint(recipe: Recipe, data: str, out: str, which: str) -> str:
    """Register the averaged weights of a checkpoint of the run `out`; returns a line for the user.

    which: "best" (in validation, by training.best_metric), "newest", or a number of steps. The run may still be going
    on. Its bundle is OUT/model-000123, and the same call again registers nothing. Raises UsageError if there is no such
    checkpoint, or if it is of another recipe; JobError for what fails.
    """
    task = open_task(recipe, data)
    saved, denoiser = _take(task, out, which)
    location = storage.join(out, f"registered-{saved.step:06d}.json")
    identity = {"step": saved.step, "recipe": saved.marker["recipe"], "tracking_uri": tracking_uri()}
    if storage.exists(location) and (earlier := storage.read_json(location))["identity"] == identity:
        return f"already registered: {earlier['model']} version {earlier['version']} ({earlier['bundle']})"
    bundle = storage.join(out, f"model-{saved.step:06d}")
    with start_run(recipe.name, f"{recipe.name} denoiser, step {saved.step}", tags=_tags(task, out)) as run:
        figure = saved.figure(saved.marker["metric"])
        if figure is not None:
            with tracking_errors():
                mlflow.log_metric(f"validation_{saved.marker['metric']}", figure, step=saved.step)
        registered = publish(task, denoiser, bundle, saved.step, run.info.run_id)
    storage.write_json(location, {**registered, "identity": identity})
    return f"registered: {registered['model']} version {registered['version']} ({bundle})"


def _take(task: DenoiserTask, out: str, which: str) -> tuple[Saved, SwinUNet]:
    """The checkpoint that `which` names, and the denoiser with its averaged weights."""
    for is_last in (False, False, True):  # a training that goes on may drop a checkpoint while it is read
        try:
            saved = _choose(whole_checkpoints(storage.join(out, "checkpoints")), which, task.config.best_metric, out)
            refuse_another_recipe(saved, task.resolved)
            return saved, _averaged(task, saved)
        except FileNotFoundError as error:
            if is_last:
                raise JobError(f"--out {out}: the training drops checkpoints while they are read; try again") from error
        except JobError:
            if is_last:
                raise
    raise AssertionError("the last turn returns or raises")


def _choose(whole: list[Saved], which: str, metric: str, out: str) -> Saved:
    if not whole:
        raise UsageError(f"--out {out}: holds no checkpoint of a run; give the --out of training/train.py")
    steps = ", ".join(str(saved.step) for saved in whole)
    if which == NEWEST:
        return whole[-1]
    if which == BEST:
        best = best_of(whole, metric)
        if best is None:
            raise UsageError(
                f"--checkpoint best: none of the checkpoints was validated by {metric}; give newest, or one of their "
                f"steps: {steps}"
            )
        return best
    found = next((saved for saved in whole if str(saved.step) == which), None)
    if found is None:
        raise UsageError(f"--checkpoint {which}: is neither best nor newest, nor one of the steps {steps}")
    return found


def _averaged(task: DenoiserTask, saved: Saved) -> SwinUNet:
    """The denoiser with the averaged weights of a checkpoint, on the CPU."""
    with tempfile.TemporaryDirectory(prefix="resshift-export-") as scratch:
        path = Path(scratch, STATE) if storage.is_s3(saved.url) else Path(saved.url, STATE)
        if storage.is_s3(saved.url):
            storage.download(storage.join(saved.url, STATE), path)
        with copied_to(path.parent, saved.url):
            state = read_tree(path)
    network = task.build_denoiser()
    ema = Ema(network, task.config.ema_decay)
    ema.load_state_dict(state["ema"])
    return ema.onto(network)


def _tags(task: DenoiserTask, out: str) -> dict[str, str]:
    tags = {"dataset.url": task.dataset.url, "dataset.digest": task.dataset.digest, "stage": "denoiser"}
    location = storage.join(out, RUN_FILE)
    if storage.exists(location):  # a run of its own below that of the training, which may not have ended
        training = storage.read_json(location)
        if training["tracking_uri"] == tracking_uri():
            tags["mlflow.parentRunId"] = training["run_id"]
    return tags
