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
from training.loss import Crops, DenoisingBatch, denoising_loss, draw_crops

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
    hq = torch.rand(4, 3, 32, 32)
    return DenoisingBatch(x_0, y_0, torch.zeros(4, 3, 8, 8), None, hq, torch.arange(4), noise, crops=None)


def loss_of(denoiser, batch, **options):
    defaults = {"mse_weight": 1.0, "lpips_weight": 0.0, "decoder": None, "perceptual": None}
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


def test_the_loss_of_the_batch_is_the_mean_of_its_samples(batch):
    pixels = dataclasses.replace(batch, hq=batch.y_0)
    loss = loss_of(Linear(), pixels, mse_weight=2.0, lpips_weight=0.5, perceptual=Distance())
    alone = []
    for row in range(4):
        names = ("x_0", "y_0", "lq", "hq", "t", "noise")
        part = dataclasses.replace(pixels, **{name: getattr(pixels, name)[row : row + 1] for name in names})
        alone.append(loss_of(Linear(), part, mse_weight=2.0, lpips_weight=0.5, perceptual=Distance()).total)
    torch.testing.assert_close(loss.per_sample, torch.stack(alone).detach())
    torch.testing.assert_close(loss.total, loss.per_sample.mean())


def test_lpips_may_look_at_a_crop_of_each_sample(batch):
    """The crop of the prediction is decoded and compared with the same place of HQ; the MSE still sees everything."""
    vqgan = VQGAN(VQGANConfig(**NETWORK)).eval().requires_grad_(False)
    crops = Crops(3, [(0, 0), (5, 1), (2, 5), (4, 4)])
    cropped = dataclasses.replace(batch, crops=crops)
    options = {"lpips_weight": 1.0, "decoder": vqgan, "perceptual": Distance()}
    loss = loss_of(Linear(), cropped, **options)
    state = scale_input(q_sample(batch.x_0, batch.y_0, batch.t, batch.noise, SCHEDULE), batch.t, SCHEDULE)
    for row, (top, left) in enumerate(crops.corners):
        decoded = vqgan.decode(0.5 * state[row : row + 1, :, top : top + 3, left : left + 3])
        hq = batch.hq[row : row + 1, :, 4 * top : 4 * top + 12, 4 * left : 4 * left + 12]
        expected = Distance()(decoded, hq) + (0.5 * state[row] - batch.x_0[row]).square().mean()
        torch.testing.assert_close(loss.per_sample[row : row + 1], expected.detach())
    torch.testing.assert_close(loss.mse, loss_of(Linear(), batch, **options).mse)
    loss.total.backward()


def test_crops_follow_from_seed_step_and_slot_and_reach_every_place():
    crops = draw_crops(7, 3, list(range(400)), side=8, size=5)
    assert draw_crops(7, 3, [5, 6], 8, 5).corners == crops.corners[5:7]
    assert draw_crops(7, 4, [5, 6], 8, 5).corners != crops.corners[5:7]
    assert set(crops.corners) == {(top, left) for top in range(4) for left in range(4)}
