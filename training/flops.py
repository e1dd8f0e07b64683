"""Floating-point operations of a training step, and how many this machine can do: what utilisation is measured by."""

import time

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from resshift.perceptual import lpips_metric
from resshift.swin_unet import SwinUNet
from resshift.vqgan import VQGAN
from training.autoencoder_loss import AutoencoderPass
from training.autoencoder_task import AutoencoderTask
from training.denoiser_task import DenoiserTask
from training.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from training.engine import Processes, autocast
from training.figures import sum_over
from training.loss import DenoisingBatch, denoising_loss

META = torch.device("meta")
PROBE_SECONDS = 0.2
PROBE_SIDE = {"cpu": 1024, "cuda": 8192}


def sample_flops(task: DenoiserTask) -> int:
    """Multiplications and additions of products and convolutions, forward and backward, for one training sample.

    Encoding pairs on the fly and the search of the codebook are not part of it.
    """
    with FlopCounterMode(display=False) as counter:
        dry_step(task)
    return int(counter.get_total_flops())


@torch.random.fork_rng(devices=[])  # networks without data draw their initial weights all the same
def dry_step(task: DenoiserTask) -> SwinUNet:
    """One sample forward and backward on tensors without data: nothing is computed and nothing is held.

    Returns the denoiser with its gradients, on the meta device. Raises what a real step would for shapes that do not
    fit.
    """
    with META:
        denoiser = SwinUNet(task.network)
    decoder = perceptual = None
    if task.config.lpips_weight:
        perceptual = lpips_metric("vgg").to(META)
        if task.autoencoder is not None:
            with META:
                decoder = _Unquantised(VQGAN(task.autoencoder.config).requires_grad_(False))
    loss = denoising_loss(
        denoiser,
        meta_batch(task),
        task.schedule,
        mse_weight=task.config.mse_weight,
        lpips_weight=task.config.lpips_weight,
        decoder=decoder,
        perceptual=perceptual,
        autocast=autocast("float32", META),
    )
    loss.total.backward()
    return denoiser


@torch.random.fork_rng(devices=[])
def crop_flops(task: AutoencoderTask) -> int:
    """The same for one crop of VQGAN training, at its dearest: once the discriminator has started."""
    config, size = task.config, task.config.crop_size
    perceptual = lpips_metric("vgg").to(META) if config.lpips_weight else None
    discriminator = None
    with META:
        network = AutoencoderPass(VQGAN(task.network))
        if config.discriminator_weight:
            discriminator = PatchDiscriminator(config.discriminator_channels, config.discriminator_layers)
        hq = torch.empty(config.global_batch_size, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        reconstruction, commitment, _, _ = network(hq, quantize=False)
        loss = (reconstruction - hq).abs().mean() + commitment
        if perceptual is not None:
            judged = config.lpips_samples
            loss = loss + perceptual(reconstruction[:judged], hq[:judged]).mean()
        if discriminator is not None:
            loss = loss + generator_loss(discriminator.requires_grad_(False)(reconstruction))
        loss.backward()
        if discriminator is not None:
            both = torch.cat([hq, reconstruction.detach()])
            real, fake = discriminator.requires_grad_(True)(both).chunk(2)
            discriminator_loss(real, fake).backward()
    return int(counter.get_total_flops()) // config.global_batch_size


def meta_batch(task: DenoiserTask, samples: int = 1) -> DenoisingBatch:
    """A batch of the shapes that training has, without data."""
    network, latent = task.network, task.network.image_size
    image = latent * (1 if task.autoencoder is None else task.autoencoder.downscale)
    condition = latent * network.lq_factor
    with META:
        x_0 = torch.empty(samples, network.in_channels, latent, latent)
        return DenoisingBatch(
            x_0,
            x_0,
            torch.empty(samples, 3, condition, condition),
            torch.empty(samples, 1, condition, condition) if network.cond_mask else None,
            torch.empty(samples, 3, image, image),
            torch.zeros(samples, dtype=torch.int64),
            x_0,
            crops=task.crops(0, list(range(samples)), latent),
        )


def matmul_ceiling(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Operations per second of this process's best square matrix product: what could be had at most."""
    side = side or PROBE_SIDE[device.type]
    a, b = (torch.full((side, side), value, device=device, dtype=dtype) for value in (1.0, 0.5))
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < PROBE_SECONDS:
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best


class _Unquantised:
    """A decoder without the codebook, whose search does not run on tensors without data."""

    def __init__(self, vqgan: VQGAN) -> None:
        self.vqgan = vqgan

    def unscale_latent(self, z: Tensor) -> Tensor:
        return self.vqgan.unscale_latent(z)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        return self.vqgan.decode(z, quantize=False)


class Utilisation:
    """Share of the processes' matrix product ceilings that training makes use of (model FLOPs utilisation)."""

    def __init__(self, flops_per_sample: int, precision: str, processes: Processes) -> None:
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
        own = torch.tensor(matmul_ceiling(processes.device, dtype), dtype=torch.float64)
        self.ceiling = float(sum_over(processes, own))
        self.flops_per_sample = flops_per_sample

    def __call__(self, samples_per_second: float) -> float:
        """Between 0 and about 1; above it only where other operations are faster than a float32 product."""
        return samples_per_second * self.flops_per_sample / self.ceiling
