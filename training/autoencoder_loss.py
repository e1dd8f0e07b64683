"""The autoencoder's objective (equations 4 to 7 of VQGAN), as a gradient at the reconstruction.

Everything that judges a reconstruction (L1, LPIPS-vgg, the discriminator) is differentiated down to the image only;
the autoencoder is then run backwards once, from the weighted sum. The adaptive weight of the adversarial part needs the
gradients at the decoder's last layer, and those follow from the two image gradients and the layer's input.

What is learned from a global batch does not depend on how it is cut into micro batches and processes.

B batch, H and W crop size, D latent channels, h and w latent size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from resshift.vqgan import VQGAN
from training.config import AutoencoderTrainingConfig
from training.discriminator import adaptive_weight, generator_loss, weight_gradient
from training.engine import Autocast, Processes


class AutoencoderPass(nn.Module):
    """One pass through a VQGAN with all that its training looks at; this is what DeepSpeed wraps."""

    def __init__(self, vqgan: VQGAN) -> None:
        super().__init__()
        self.vqgan = vqgan
        self.last_features = torch.zeros(0)
        vqgan.decoder.conv_out.register_forward_pre_hook(self._keep_features)

    def forward(self, x: Tensor, quantize: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image (B, 3, H, W) -> reconstruction, commitment loss, latent (B, D, h, w), codes (B * h * w,).

        Without `quantize` it is a plain autoencoder: the loss is 0 and there are no codes.
        """
        z = self.vqgan.encode(x).float()
        if not quantize:
            return self.vqgan.decode(z, quantize=False), z.new_zeros(()), z.detach(), z.new_zeros(0, dtype=torch.int64)
        z_q, codes, commitment = self.vqgan.quantize(z)
        return self.vqgan.decode(z_q, quantize=False), commitment, z.detach(), codes

    def last_layer_gradient(self, image_gradient: Tensor) -> Tensor:
        """Gradient at the decoder's last weights, from that at the image the last pass made (B, 3, H, W)."""
        return weight_gradient(self.last_features, self.vqgan.decoder.conv_out.weight, image_gradient)

    def _keep_features(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self.last_features = inputs[0].detach()


@dataclass(frozen=True)
class Judgement:
    """What was found about a reconstruction: scalars, and gradients (B, 3, H, W) at it.

    gradient: of the weighted L1 and LPIPS. generator_gradient: of the adversarial loss alone, None before it starts.
    """

    gradient: Tensor
    generator_gradient: Tensor | None
    l1: Tensor
    lpips: Tensor
    adversarial: Tensor


def judge(
    reconstruction: Tensor,
    hq: Tensor,
    slots: Sequence[int],
    *,
    config: AutoencoderTrainingConfig,
    perceptual: nn.Module | None,
    discriminator: nn.Module | None,
    autocast: Autocast,
) -> Judgement:
    """Compare a reconstruction with HQ, both (B, 3, H, W) in [-1, 1].

    slots: places of the samples in the global batch, from which follows what LPIPS looks at. perceptual: LPIPS-vgg,
    None at weight 0. discriminator: None before it starts.
    """
    image = reconstruction.detach().float().requires_grad_()
    l1 = (image - hq).abs().mean()
    lpips = image.new_zeros(())
    rows = config.lpips_rows(slots)
    if perceptual is not None and rows:
        with autocast():
            found = perceptual(image[rows], hq[rows]).float().sum()
        # The mean over all micro batches of this is the mean over all samples of the global batch that are looked at.
        lpips = found * (config.global_batch_size / (config.lpips_samples * len(image)))
    (gradient,) = torch.autograd.grad(config.l1_weight * l1 + config.lpips_weight * lpips, image)
    adversarial, generator_gradient = image.new_zeros(()), None
    if discriminator is not None:
        with autocast():
            adversarial = generator_loss(discriminator(image).float())
        (generator_gradient,) = torch.autograd.grad(adversarial, image)
    return Judgement(gradient, generator_gradient, l1.detach(), lpips.detach(), adversarial.detach())


class AdversarialBalance:
    """The adversarial loss's adaptive weight (equation 7 of VQGAN), found on whole global batches.

    A departure from the usual form, which takes the ratio of the two gradients' norms in each micro batch of each
    process: the mean of ratios is not the ratio of means, so what is learned would depend on how a batch is cut. Here
    the gradients are added up over all of them first. The ratio is known after the last one only and serves the next
    step, from which the networks differ by one update; in the discriminator's very first step the weight is 0.
    """

    def __init__(self, processes: Processes, micro_steps: int) -> None:
        self.processes = processes
        self.weight = torch.zeros((), device=processes.device)
        """Ratio of the norms in the step before, a scalar."""
        self._share = 1.0 / (micro_steps * processes.world_size)
        self._sums: Tensor | None = None

    def observe(self, reconstruction_gradient: Tensor, generator_gradient: Tensor) -> None:
        """Add one micro batch's gradients at the decoder's last layer."""
        gradients = torch.stack([reconstruction_gradient, generator_gradient]) * self._share
        self._sums = gradients if self._sums is None else self._sums + gradients

    def step_done(self) -> None:
        """Find the weight for the next step. All processes must call it, once per step in which they observed."""
        assert self._sums is not None, "the discriminator looks at every micro batch"
        if self.processes.world_size > 1:
            dist.all_reduce(self._sums)
        found = adaptive_weight(*self._sums)
        self.weight = torch.where(found.isfinite(), found, self.weight)  # a skipped step must not spoil the next
        self._sums = None

    def state_dict(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.weight = state["weight"].to(self.processes.device)


def surrogate(reconstruction: Tensor, gradient: Tensor, commitment: Tensor, weight: float) -> Tensor:
    """A scalar whose gradient is that of the whole objective; its value means nothing."""
    return (reconstruction.float() * gradient).sum() + weight * commitment
