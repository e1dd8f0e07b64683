"""A prepared restorer is faster and otherwise the same."""

import numpy as np
import pytest
import torch

from resshift import VQGAN, EtaSchedule, Restorer, SwinUNet, SwinUNetConfig, VQGANConfig, swin_unet, vqgan_blocks
from resshift.fused import FusedUpsample
from resshift.precision import choose_precision


def restorer(width=32) -> Restorer:
    torch.manual_seed(0)
    unet = SwinUNet(
        SwinUNetConfig(
            image_size=16, model_channels=width, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(16,),
            swin_depth=1, swin_embed_dim=32, mlp_ratio=1.0, lq_size=16,
        )
    )  # fmt: skip
    vqgan = VQGAN(VQGANConfig(ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, n_embed=64))
    for part in (unet, vqgan):
        for parameter in part.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return Restorer(unet, vqgan, EtaSchedule.exponential(num_steps=2), 4)


@pytest.mark.parametrize("module", [swin_unet.Upsample, vqgan_blocks.Upsample])
@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_a_fused_upsample_gives_the_same_values(module, size):
    torch.manual_seed(0)
    plain = module(8)
    x = torch.randn(2, 8, *size)
    torch.testing.assert_close(FusedUpsample(plain.conv)(x), plain(x), rtol=1e-5, atol=1e-5)


def test_prepared_in_float32_the_result_is_the_same():
    image = np.random.default_rng(0).integers(0, 256, (20, 17, 3), dtype=np.uint8)
    plain, prepared = restorer(), restorer().prepare("float32")
    assert sum(isinstance(part, FusedUpsample) for part in prepared.denoiser.modules()) == 1
    assert sum(isinstance(part, FusedUpsample) for part in prepared.autoencoder.modules()) == 2
    lq = torch.rand(1, 3, 12, 9) * 2 - 1
    noise = plain.draw_noise(lq.shape, torch.Generator().manual_seed(0))
    latents = [model.autoencoder.encode(lq) for model in (plain, prepared)]
    torch.testing.assert_close(*latents, rtol=1e-4, atol=1e-4)
    steps = [
        model.denoiser(noise[0], torch.tensor([1]), torch.zeros(1, 3, *noise.shape[3:])) for model in (plain, prepared)
    ]
    torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-4)
    assert np.abs(plain(image).astype(int) - prepared(image)).mean() < 0.5


def test_prepared_in_bfloat16_the_result_is_near():
    """Latents snap to codes, so single pixels may differ by much; steps before that do not."""
    plain, prepared = restorer(), restorer().prepare("bfloat16")
    assert prepared.precision == "bfloat16"
    assert prepared.autoencoder.quantize.embedding.weight.dtype == torch.float32
    x = torch.rand(1, 3, 32, 40) * 2 - 1
    with torch.no_grad():
        for first, second in (
            (plain.autoencoder.encode(x), prepared.autoencoder.encode(x)),
            (
                plain.autoencoder.decode(x[..., :8, :8], quantize=False),
                prepared.autoencoder.decode(x[..., :8, :8], quantize=False),
            ),
            (plain.denoiser(x, torch.tensor([1]), x), prepared.denoiser(x, torch.tensor([1]), x)),
        ):
            assert second.dtype == torch.float32
            assert (first - second).abs().mean() < 0.04 * first.abs().mean()


def test_a_prepared_restorer_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="save it before"):
        restorer().prepare().save(tmp_path)


def test_in_bfloat16_the_image_is_not_rounded_to_its_levels():
    """bfloat16 has 128 levels from 0.25 to 0.5: an image of 16 bits would come out in bands."""
    prepared = restorer().prepare("bfloat16")
    for last in (
        prepared.autoencoder.decode(torch.rand(1, 3, 16, 16), quantize=False),
        prepared.denoiser(torch.rand(1, 3, 16, 16), torch.tensor([1]), torch.rand(1, 3, 16, 16)),
    ):
        assert last.dtype == torch.float32
        assert (last != last.bfloat16().float()).float().mean() > 0.9


def test_auto_takes_bfloat16_where_the_machine_computes_it(monkeypatch):
    cpu = torch.device("cpu")
    for has, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert choose_precision("auto", cpu) == expected
        assert choose_precision("bfloat16", cpu) == "bfloat16"
    with pytest.raises(ValueError, match="precision is 'half'; choose one of auto, float32, bfloat16"):
        choose_precision("half", cpu)
