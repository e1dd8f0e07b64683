"""The denoiser's training loop."""

from collections.abc import Callable
from typing import Any

from resshift.swin_unet import SwinUNet
from training.bad_steps import BadSteps
from training.checkpoint import Checkpoints
from training.denoiser_task import DenoiserTask
from training.ema import Ema
from training.engine import (
    Processes,
    autocast,
    build_engine,
    grad_norm,
    plan_batches,
    poisoned,
    set_learning_rate,
)
from training.figures import Figures, bar_of
from training.flops import Utilisation, sample_flops
from training.loader import BatchLoader, check_processes
from training.loss import DenoisingBatch, DenoisingLoss, denoising_loss
from training.lr import learning_rate
from training.preemption import Preemption
from training.seeding import seed_micro_batch
from training.tracker import Tracker
from training.validation import DenoiserValidation


def train_denoiser(
    task: DenoiserTask, out: str, processes: Processes, tracker: Tracker, preemption: Preemption
) -> SwinUNet:
    """Train to the last step, going on from the newest whole checkpoint below `out`.

    Returns the denoiser with the averaged weights, on the CPU. Raises UsageError for a checkpoint of another recipe,
    JobError when the loss stays non-finite. All processes must call this.
    """
    config = task.config
    check_processes(task.dataset, task.order, processes)
    checkpoints = Checkpoints(out, processes, task.resolved, config.keep_checkpoints, config.best_metric)
    saved = checkpoints.latest()
    network = task.build_denoiser()
    if saved is None:
        task.start_linear(network)
    network.to(processes.device)  # its weights stay as they are (ZeRO flattens them); the layout follows the inputs
    engine = build_engine(network, config, processes)
    ema = Ema(network, config.ema_decay)
    bad_steps = BadSteps(config.max_bad_steps, out, processes)
    if saved is not None:
        state = checkpoints.load(saved, {"denoiser": engine})
        ema.load_state_dict(state["ema"])
        bad_steps.load_state_dict(state["bad_steps"])
    if config.compile:
        network.compile()
    start = saved.step if saved else 0
    loss_of = _objective(task, engine, processes)
    figures = Figures(processes)
    utilisation = Utilisation(sample_flops(task), config.precision, processes)
    validation = DenoiserValidation(task, processes) if config.validation_samples else None
    tracker.trained_on(task.dataset)
    with (
        BatchLoader(
            task.dataset,
            task.order,
            task.fields,
            processes,
            start,
            config.num_steps,
            workers=config.loader_workers,
            cache_bytes=config.shard_cache_bytes,
        ) as loader,
        bar_of(processes, "training denoiser", config.num_steps, start) as bar,
    ):
        for batch in loader:
            lr = learning_rate(batch.step, config)
            set_learning_rate(engine, lr)
            for part in batch.micro(plan_batches(config, processes.world_size).micro):
                seed_micro_batch(config.seed, part.step, part.slots)
                inputs = task.to_device(part, processes.device)
                loss = loss_of(inputs)
                engine.backward(poisoned(loss.total))
                engine.step()
                figures.add(loss=loss.total, mse=loss.mse, lpips=loss.lpips)
                figures.add_indexed("loss_t", inputs.t, loss.per_sample, task.schedule.num_steps)
            if bad_steps.passed(engine.was_step_applied(), batch):
                ema.update(network)
            figures.step_done(config.global_batch_size, loader.wait_seconds, grad_norm=grad_norm(engine), lr=lr)
            bar.advance(1, **figures.glance("loss"))
            step = batch.step + 1
            if config.due(step, config.log_every):
                report = figures.collect(skipped_steps=bad_steps.skipped)
                report["flops_utilisation"] = utilisation(report["samples_per_second"])
                tracker.metrics(step, report)
            quality = None
            with figures.clock_stopped():
                if validation is not None and config.due(step, config.validate_every):
                    measured, picture = validation(ema.onto(task.build_denoiser()))
                    tracker.metrics(step, measured)
                    tracker.image("validation", step, picture)
                    quality = measured.get(f"validation_{config.best_metric}")
                stop = preemption.asked()
                if config.due(step, config.checkpoint_every) or checkpoints.is_best(quality) or stop:
                    state = {"ema": ema.state_dict(), "bad_steps": bad_steps.state_dict()}
                    checkpoints.save(step, {"denoiser": engine}, state, quality)
            if stop:
                preemption.leave(step)
    return ema.onto(task.build_denoiser())


def _objective(task: DenoiserTask, engine: Any, processes: Processes) -> Callable[[DenoisingBatch], DenoisingLoss]:
    task.place_autoencoder(processes.device)
    perceptual = task.build_perceptual(processes.device)

    def loss_of(batch: DenoisingBatch) -> DenoisingLoss:
        return denoising_loss(
            engine,
            batch,
            task.schedule,
            mse_weight=task.config.mse_weight,
            lpips_weight=task.config.lpips_weight,
            decoder=task.autoencoder,
            perceptual=perceptual,
            autocast=autocast(task.config.precision, processes.device),
        )

    return loss_of
