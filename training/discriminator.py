"""The patch discriminator of VQGAN training, its hinge losses, and the weight that balances it against reconstruction.

Architecture after pix2pix (Isola et al. 2017), losses and adaptive weight after VQGAN (Esser et al. 2021).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_MULTIPLIER = 8
NORM_GROUPS = 8


class PatchDiscriminator(nn.Module):
    """Tells real from reconstructed patches: (B, 3, H, W) in [-1, 1] -> (B, 1, h, w) scores, real above 0."""

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        width = channels
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for layer in range(1, layers + 1):
            wider = channels * min(2**layer, MAX_MULTIPLIER)
            stride = 2 if layer < layers else 1
            # GroupNorm where the original has BatchNorm: nothing to synchronise, and small batches work.
            blocks += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(NORM_GROUPS, wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        blocks.append(nn.Conv2d(width, 1, 4, padding=1))
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Score every patch."""
        return self.blocks(image)  # type: ignore[no-any-return]


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator: scores of real patches above 1, of reconstructed ones below -1."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """Hinge loss of the autoencoder: high scores for its reconstructions."""
    return -fake.mean()


def adaptive_weight(reconstruction_gradient: Tensor, generator_gradient: Tensor, limit: float = 1e4) -> Tensor:
    """Ratio of two gradients' norms at the decoder's last layer (equation 7 of VQGAN): a scalar, at most `limit`."""
    ratio = reconstruction_gradient.norm() / (generator_gradient.norm() + 1e-4)
    return ratio.clamp(0.0, limit).detach()


def weight_gradient(features: Tensor, weight: Tensor, output_gradient: Tensor) -> Tensor:
    """Gradient of a 3x3 convolution's weight, from its input features and the gradient of its output."""
    shape = list(weight.shape)
    _, gradient, _ = torch.ops.aten.convolution_backward(
        output_gradient.float(), features.float(), weight.float(), [shape[0]], [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
        [False, True, False],
    )  # fmt: skip
    return gradient  # type: ignore[no-any-return]
