"""The autoencoder's objective (equations 4 to 7 of VQGAN), as a gradient at the reconstruction.

Everything that judges a reconstruction (L1, LPIPS-vgg, the discriminator) is differentiated down to the image only;
the autoencoder is then run backwards once, from the weighted sum. The adaptive weight of the adversarial part needs the
gradients at the decoder's last layer, and those follow from the two image gradients and the layer's input.

B batch, H and W crop size, D latent channels, h and w latent size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resshift.vqgan import VQGAN
from training.config import AutoencoderTrainingConfig
from training.discriminator import adaptive_weight, generator_loss, weight_gradient
from training.engine import Autocast


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

    def _keep_features(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self.last_features = inputs[0].detach()


@dataclass(frozen=True)
class Judgement:
    """What was found about a reconstruction: scalars, and the gradient (B, 3, H, W) of their weighted sum."""

    gradient: Tensor
    l1: Tensor
    lpips: Tensor
    adversarial: Tensor
    weight: Tensor


def judge(
    reconstruction: Tensor,
    hq: Tensor,
    *,
    config: AutoencoderTrainingConfig,
    perceptual: nn.Module | None,
    discriminator: nn.Module | None,
    network: AutoencoderPass,
    autocast: Autocast,
) -> Judgement:
    """Compare a reconstruction with HQ, both (B, 3, H, W) in [-1, 1].

    perceptual: LPIPS-vgg, None at weight 0. discriminator: None before it starts.
    """
    image = reconstruction.detach().float().requires_grad_()
    l1 = (image - hq).abs().mean()
    lpips = torch.zeros(())
    if perceptual is not None:
        judged = config.lpips_samples(len(image))
        with autocast():
            lpips = perceptual(image[:judged], hq[:judged]).mean().float()
    weighted = config.l1_weight * l1 + config.lpips_weight * lpips
    (gradient,) = torch.autograd.grad(weighted, image)
    adversarial = weight = torch.zeros(())
    if discriminator is not None:
        with autocast():
            adversarial = generator_loss(discriminator(image).float())
        (generator_gradient,) = torch.autograd.grad(adversarial, image)
        last = network.vqgan.decoder.conv_out.weight
        weight = config.discriminator_weight * adaptive_weight(
            weight_gradient(network.last_features, last, gradient),
            weight_gradient(network.last_features, last, generator_gradient),
        )
        gradient = gradient + weight * generator_gradient
    return Judgement(gradient, l1.detach(), lpips.detach(), adversarial.detach(), weight)


def surrogate(reconstruction: Tensor, gradient: Tensor, commitment: Tensor, weight: float) -> Tensor:
    """A scalar whose gradient is that of the whole objective; its value means nothing."""
    return (reconstruction.float() * gradient).sum() + weight * commitment
