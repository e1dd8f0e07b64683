"""The denoiser's objective against its definition."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch

from resshift.process import q_sample, scale_input
from resshift.schedule import EtaSchedule
from resshift.vqgan import VQGAN
from resshift.vqgan_config import VQGANConfig
from tests.training.conftest import NETWORK
from training.loss import DenoisingBatch, denoising_loss

SCHEDULE = EtaSchedule.exponential(num_steps=4)


class Linear(torch.nn.Module):
    """A denoiser whose prediction is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, lq, mask=None):
        return self.gain * x


class Distance(torch.nn.Module):
    def forward(self, a, b):
        return (a - b).abs().flatten(1).mean(1)


@pytest.fixture
def batch() -> DenoisingBatch:
    torch.manual_seed(0)
    x_0, y_0, noise = torch.randn(3, 4, 3, 8, 8).unbind(0)
    return DenoisingBatch(x_0, y_0, torch.zeros(4, 3, 8, 8), None, torch.rand(4, 3, 32, 32), torch.arange(4), noise)


def loss_of(denoiser, batch, **options):
    defaults = {"mse_weight": 1.0, "lpips_weight": 0.0, "lpips_samples": 4, "decoder": None, "perceptual": None}
    return denoising_loss(denoiser, batch, SCHEDULE, autocast=nullcontext, **(defaults | options))


def test_mse_is_between_x_0_and_its_prediction_from_the_scaled_state(batch):
    loss = loss_of(Linear(), batch, mse_weight=3.0)
    state = scale_input(q_sample(batch.x_0, batch.y_0, batch.t, batch.noise, SCHEDULE), batch.t, SCHEDULE)
    expected = (0.5 * state - batch.x_0).square().mean()
    torch.testing.assert_close(loss.mse, expected)
    torch.testing.assert_close(loss.total.detach(), 3.0 * expected)
    assert loss.lpips == 0


def test_lpips_judges_the_decoded_prediction_and_its_gradient_passes_the_quantiser(batch):
    vqgan = VQGAN(VQGANConfig(**NETWORK), latent_scale=2.0).eval().requires_grad_(False)
    denoiser, distance = Linear(), Distance()
    loss = loss_of(denoiser, batch, mse_weight=0.0, lpips_weight=2.0, decoder=vqgan, perceptual=distance)
    state = scale_input(q_sample(batch.x_0, batch.y_0, batch.t, batch.noise, SCHEDULE), batch.t, SCHEDULE)
    decoded = vqgan.decode(0.5 * state / 2.0)
    torch.testing.assert_close(loss.lpips, distance(decoded, batch.hq).mean())
    loss.total.backward()
    assert denoiser.gain.grad.abs() > 0


def test_lpips_may_look_at_a_part_of_the_batch(batch):
    part = dataclasses.replace(batch, **{
        name: getattr(batch, name)[:1] for name in ("x_0", "y_0", "lq", "hq", "t", "noise")
    })  # fmt: skip
    pixels = {"lpips_weight": 1.0, "perceptual": Distance()}
    whole = dataclasses.replace(batch, hq=batch.x_0 * 0), dataclasses.replace(part, hq=part.x_0 * 0)
    first_only = loss_of(Linear(), whole[0], lpips_samples=1, **pixels)
    torch.testing.assert_close(first_only.lpips, loss_of(Linear(), whole[1], **pixels).lpips)
