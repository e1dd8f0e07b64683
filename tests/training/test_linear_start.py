"""Before its first step, the autoencoder already averages and interpolates."""

import pytest
import torch
import torch.nn.functional as F

from resshift.swin_unet import SwinUNet
from resshift.swin_unet_config import SwinUNetConfig
from resshift.vqgan import VQGAN
from resshift.vqgan_config import VQGANConfig
from training.linear_start import can_start_linear, start_linear, start_regression


@torch.no_grad()
@pytest.mark.parametrize("ch_mult", [(1, 1, 1), (1, 2)])
def test_a_started_autoencoder_reconstructs_block_averages(ch_mult):
    torch.manual_seed(0)
    vqgan = VQGAN(VQGANConfig(ch=128, ch_mult=ch_mult, num_res_blocks=1, n_embed=8)).eval()
    image = F.interpolate(torch.rand(2, 3, 5, 5) * 2 - 1, size=(32, 32), mode="bicubic").clamp(-1, 1)
    average = F.avg_pool2d(image, vqgan.downscale)

    untrained = (vqgan.decode(vqgan.encode(image), quantize=False) - image).abs().mean()
    start_linear(vqgan, randomness=0.0)
    latent = vqgan.encode(image)
    torch.testing.assert_close(latent, average, rtol=0.15, atol=0.05)
    assert (vqgan.decode(latent, quantize=False) - image).abs().mean() < 0.15 < untrained


@torch.no_grad()
def test_a_started_denoiser_predicts_what_regression_would():
    torch.manual_seed(0)
    config = SwinUNetConfig(
        image_size=16, lq_size=16, model_channels=64, norm_groups=8, channel_mult=(1, 1), num_res_blocks=1,
        attention_resolutions=(8,), swin_embed_dim=32, out_channels=4, in_channels=4,
    )  # fmt: skip
    unet = SwinUNet(config).eval()
    lq = F.interpolate(torch.rand(4, 3, 4, 4) * 2 - 1, size=(16, 16), mode="bilinear")
    mixing = torch.randn(4, 3)
    x_0 = torch.einsum("oc,bchw->bohw", mixing, lq) + 0.5
    start_regression(unet, lq, x_0, randomness=0.0)
    predicted = unet(torch.randn(4, 4, 16, 16), torch.arange(4), lq)
    assert (predicted - x_0).square().mean() < 0.05 * x_0.var()


def test_narrow_groups_are_refused():
    vqgan = VQGAN(VQGANConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1))
    assert not can_start_linear(vqgan)
    with pytest.raises(ValueError, match="fewer than 4 channels per group"):
        start_linear(vqgan)
