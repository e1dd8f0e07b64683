"""The denoiser's training loop."""

from collections.abc import Callable
from typing import Any

import torch

from resshift.images import image_to_tensor, tensor_to_image, upscale_lq
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
    place,
    plan_batches,
    poisoned,
    set_learning_rate,
)
from training.figures import Figures, bar_of, psnr, sum_over
from training.loader import Batch, BatchLoader, held_out_samples
from training.loss import DenoisingLoss, denoising_loss
from training.lr import learning_rate
from training.tracker import Tracker


def train_denoiser(task: DenoiserTask, out: str, processes: Processes, tracker: Tracker) -> SwinUNet:
    """Train to the last step, going on from the newest whole checkpoint below `out`.

    Returns the denoiser with the averaged weights, on the CPU. Raises UsageError for a checkpoint of another recipe,
    JobError when the loss stays non-finite. All processes must call this.
    """
    config = task.config
    torch.manual_seed(config.seed + processes.rank)  # for dropout; noise and timesteps have generators of their own
    checkpoints = Checkpoints(out, processes, task.resolved, config.zero_stage, config.keep_checkpoints)
    saved = checkpoints.latest()
    network = task.build_denoiser()
    if saved is None:
        task.start_linear(network)
    network.to(processes.device)  # DeepSpeed cannot hold weights in channels_last order
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
    with (
        BatchLoader(task.dataset, task.order, task.fields, processes, start, config.num_steps) as loader,
        bar_of(processes, "training denoiser", config.num_steps, start) as bar,
    ):
        for batch in loader:
            lr = learning_rate(batch.step, config)
            set_learning_rate(engine, lr)
            for part in batch.micro(plan_batches(config, processes.world_size).micro):
                loss = loss_of(part)
                engine.backward(poisoned(loss.total))
                engine.step()
                figures.add(loss=loss.total, mse=loss.mse, lpips=loss.lpips)
            if bad_steps.passed(engine.was_step_applied(), batch):
                ema.update(network)
            figures.step_done(config.global_batch_size, loader.wait_seconds, grad_norm=grad_norm(engine), lr=lr)
            bar.advance(1, **figures.glance("loss"))
            step = batch.step + 1
            if config.due(step, config.log_every):
                tracker.metrics(step, figures.collect(skipped_steps=bad_steps.skipped))
            if config.validation_samples and config.due(step, config.validate_every):
                tracker.metrics(step, validate(task, ema.onto(task.build_denoiser()), processes))
            if config.due(step, config.checkpoint_every):
                state = {"ema": ema.state_dict(), "bad_steps": bad_steps.state_dict()}
                checkpoints.save(step, {"denoiser": engine}, state)
    return ema.onto(task.build_denoiser())


def validate(task: DenoiserTask, denoiser: SwinUNet, processes: Processes) -> dict[str, float]:
    """PSNR (RGB, dB) of held-out samples after restoration and after bicubic upscaling, the same noise every time.

    Every process computes a share of them.
    """
    fields = ("hq", *task.condition_fields)
    samples = held_out_samples(task.dataset, task.order, task.config.validation_samples, fields)
    restorer = task.restorer(denoiser.to(processes.device))
    totals = torch.zeros(3, dtype=torch.float64)
    for number in range(processes.rank, len(samples), processes.world_size):
        sample = samples[number]
        bicubic = tensor_to_image(upscale_lq(image_to_tensor(sample["lq"]), task.recipe.scale))
        restored = restorer(sample["lq"], seed=number, mask=sample.get("mask"))
        totals += torch.tensor([psnr(restored, sample["hq"]), psnr(bicubic, sample["hq"]), 1.0])
    restored_sum, bicubic_sum, count = sum_over(processes, totals).tolist()
    return {"validation_psnr_rgb": restored_sum / count, "validation_psnr_rgb_bicubic": bicubic_sum / count}


def _objective(task: DenoiserTask, engine: Any, processes: Processes) -> Callable[[Batch], DenoisingLoss]:
    decoder = task.autoencoder
    if decoder is not None:
        # GroupNorm on a CPU is many times slower in channels_last, and the decoder is half of it.
        place(decoder, processes.device, channels_last=processes.device.type != "cpu")
    perceptual = task.build_perceptual()
    if perceptual is not None:
        perceptual = place(perceptual, processes.device, channels_last=True)

    def loss_of(batch: Batch) -> DenoisingLoss:
        return denoising_loss(
            engine,
            task.to_device(batch, processes.device),
            task.schedule,
            mse_weight=task.config.mse_weight,
            lpips_weight=task.config.lpips_weight,
            lpips_samples=task.config.lpips_samples(len(batch.keys)),
            decoder=decoder,
            perceptual=perceptual,
            autocast=autocast(task.config.precision, processes.device),
        )

    return loss_of
