import pytest
import torch

from resshift import VQGAN, VQGANConfig, quantizer
from resshift.quantizer import nearest_codes
from tests.resshift.golden import network, official_params, official_shapes

TINY = VQGANConfig(ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, n_embed=64)


def close(ours, golden):
    torch.testing.assert_close(ours, golden, rtol=0, atol=1e-5)


def test_golden():
    params, state_dict, golden = network("vqgan_f4")
    vqgan = VQGAN.from_official(params, state_dict)
    with torch.no_grad():
        for i in range(2):
            z = golden[f"z{i}"]
            close(vqgan.encode(golden[f"in{i}"]), z)
            z_q, indices, commit_loss = vqgan.quantize(z)
            close(z_q, golden[f"quantized{i}"])
            assert torch.equal(indices, golden[f"indices{i}"])
            close(commit_loss, golden[f"commit_loss{i}"])
            close(vqgan.decode(z), golden[f"decoded{i}"])
            close(vqgan.decode(z, quantize=False), golden[f"decoded_unquantized{i}"])


@pytest.mark.parametrize(("name", "millions", "downscale"), [("vqgan_f4", 55.32, 4), ("vqgan_f8_face", 77.01, 8)])
def test_official_checkpoints_load_strictly(name, millions, downscale):
    weights = {key: torch.empty(shape, device="meta") for key, shape in official_shapes(name).items()}
    vqgan = VQGAN.from_official(official_params(name), weights)
    assert sum(p.numel() for p in vqgan.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert vqgan.downscale == downscale


def test_a_checkpoint_that_does_not_fit_is_one_clear_error():
    params, state_dict, _ = network("vqgan_f4")
    with pytest.raises(ValueError, match=r"quantize.embedding.weight \(128, 3\) instead of \(64, 3\)"):
        VQGAN.from_official({**params, "n_embed": 64}, state_dict)
    with pytest.raises(ValueError, match="double_z is True"):
        VQGAN.from_official({**params, "ddconfig": {**params["ddconfig"], "double_z": True}}, state_dict)


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (16, 16), (17, 30)])
def test_any_size(size):
    torch.manual_seed(0)
    vqgan = VQGAN(TINY).eval()
    x = torch.rand(1, 3, *size) * 2 - 1
    with torch.no_grad():
        z = vqgan.encode(x)
        assert z.shape == (1, 3, -(-size[0] // 4), -(-size[1] // 4))
        assert vqgan.decode(z).shape == (1, 3, 4 * z.shape[2], 4 * z.shape[3])
        assert vqgan.decode(z, size=size).shape == x.shape
        reconstruction, commit_loss = vqgan(x)
    assert reconstruction.shape == x.shape
    assert commit_loss.shape == ()


def test_gradients_pass_straight_through_the_codes():
    torch.manual_seed(0)
    vqgan = VQGAN(TINY)
    z = torch.randn(1, 3, 4, 4, requires_grad=True)
    z_q, _, _ = vqgan.quantize(z)
    (z_q * torch.arange(48.0).view(1, 3, 4, 4)).sum().backward()
    torch.testing.assert_close(z.grad, torch.arange(48.0).view(1, 3, 4, 4))
    reconstruction, commit_loss = vqgan(torch.rand(1, 3, 16, 16))
    (reconstruction.abs().mean() + commit_loss).backward()
    assert all(p.grad is not None for p in vqgan.parameters())


def test_codes_are_the_nearest_in_whatever_parts_they_are_searched(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = torch.randn(500, 3, generator=generator), torch.randn(100, 3, generator=generator)
    naive = torch.cdist(vectors.double(), codebook.double()).argmin(1)
    assert torch.equal(nearest_codes(vectors, codebook), naive)
    monkeypatch.setattr(quantizer, "_MAX_DISTANCES", 700)
    assert torch.equal(nearest_codes(vectors, codebook), naive)


def test_latent_scale_is_applied_and_undone():
    vqgan = VQGAN(TINY, latent_scale=2.0)
    z = torch.randn(1, 3, 2, 2)
    assert torch.equal(vqgan.scale_latent(z), 2 * z)
    assert torch.equal(vqgan.unscale_latent(vqgan.scale_latent(z)), z)
    with pytest.raises(ValueError, match="latent_scale is 0"):
        VQGAN(TINY, latent_scale=0)


@pytest.mark.parametrize(
    ("field", "value"), [("ch", 40), ("ch_mult", ()), ("num_res_blocks", (1,)), ("n_embed", 0), ("dropout", -0.1)]
)
def test_a_bad_configuration_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} is"):
        VQGANConfig(**{field: value})
