"""The VQGAN's training loop, and what is measured on held-out and on training images."""

import torch

from resshift.vqgan import VQGAN
from training.autoencoder_step import AutoencoderTraining
from training.autoencoder_task import AutoencoderTask
from training.checkpoint import Checkpoints
from training.engine import Processes, grad_norm
from training.figures import bar_of, sum_over
from training.flops import Utilisation, crop_flops
from training.loader import BatchLoader, check_processes
from training.lr import learning_rate
from training.preemption import Preemption
from training.tracker import Tracker
from training.validation import AutoencoderValidation

FIELDS = ("hq",)
SCALE_BATCHES = 16


def train_autoencoder(
    task: AutoencoderTask, out: str, processes: Processes, tracker: Tracker, preemption: Preemption
) -> VQGAN:
    """Train to the last step, going on from the newest whole checkpoint below `out`.

    Returns the VQGAN with the averaged weights and its latent_scale, on the CPU. Raises UsageError for a checkpoint of
    another recipe, JobError when the loss stays non-finite. All processes must call this.
    """
    config = task.config
    check_processes(task.dataset, task.order, processes)
    checkpoints = Checkpoints(out, processes, task.resolved, config.keep_checkpoints, config.best_metric)
    saved = checkpoints.latest()
    training = AutoencoderTraining(task, out, processes)
    if saved is not None:
        training.load_state_dict(checkpoints.load(saved, training.engines))
    start = saved.step if saved else 0
    figures = training.figures
    utilisation = Utilisation(crop_flops(task), config.precision, processes)
    validation = AutoencoderValidation(task, processes) if config.validation_samples else None
    tracker.trained_on(task.dataset)
    with (
        _loader(task, processes, start, config.num_steps) as loader,
        bar_of(processes, "training autoencoder", config.num_steps, start) as bar,
    ):
        for batch in loader:
            training.step(batch)
            engine = training.engines["autoencoder"]
            figures.step_done(
                config.global_batch_size,
                loader.wait_seconds,
                grad_norm=grad_norm(engine),
                lr=learning_rate(batch.step, config),
            )
            bar.advance(1, **figures.glance("loss"))
            step = batch.step + 1
            if config.due(step, config.log_every):
                report = figures.collect(skipped_steps=training.bad_steps.skipped)
                report["flops_utilisation"] = utilisation(report["samples_per_second"])
                tracker.metrics(step, report)
            quality = None
            with figures.clock_stopped():
                if validation is not None and config.due(step, config.validate_every):
                    measured, picture = validation(training.ema.onto(task.build_autoencoder()))
                    tracker.metrics(step, measured)
                    tracker.image("validation_reconstruction", step, picture)
                    quality = measured.get(f"validation_reconstruction_{config.best_metric}")
                stop = preemption.asked()
                if config.due(step, config.checkpoint_every) or checkpoints.is_best(quality) or stop:
                    checkpoints.save(step, training.engines, training.state_dict(), quality)
            if stop:
                preemption.leave(step)
    vqgan = training.ema.onto(task.build_autoencoder())
    vqgan.latent_scale = latent_scale(task, vqgan, processes)
    tracker.metrics(config.num_steps, {"latent_scale": vqgan.latent_scale})
    return vqgan


@torch.inference_mode()
def latent_scale(task: AutoencoderTask, vqgan: VQGAN, processes: Processes) -> float:
    """1 / standard deviation of raw latents, over the crops of the first batches of training data."""
    vqgan.to(processes.device)
    count, total, squares = 0, 0.0, 0.0
    with _loader(task, processes, 0, SCALE_BATCHES) as loader:
        for batch in loader:
            for part in batch.micro(task.config.micro_batch_size):
                z = vqgan.encode(task.crops(part, processes.device)).double()
                count, total, squares = count + z.numel(), total + float(z.sum()), squares + float(z.square().sum())
    count, total, squares = sum_over(processes, torch.tensor([count, total, squares], dtype=torch.float64)).tolist()
    variance = squares / count - (total / count) ** 2
    vqgan.to("cpu")
    return 1.0 / max(variance, 1e-12) ** 0.5


def _loader(task: AutoencoderTask, processes: Processes, start: int, stop: int) -> BatchLoader:
    workers, cache_bytes = task.config.loader_workers, task.config.shard_cache_bytes
    return BatchLoader(
        task.dataset, task.order, FIELDS, processes, start, stop, workers=workers, cache_bytes=cache_bytes
    )
