import dataclasses

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from resshift import VQGAN, SwinUNet, SwinUNetConfig, VQGANConfig, swin_attention
from resshift.swin_attention import MASKED, window_mask
from tests.resshift.golden import network, official_params, official_shapes

TINY = SwinUNetConfig(
    image_size=16,
    model_channels=32,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(16, 8),
    swin_embed_dim=32,
    num_head_channels=16,
    window_size=8,
    mlp_ratio=1.0,
    lq_size=16,
)


def active(config, seed=0):
    """A network whose residual branches do something (they start at zero)."""
    torch.manual_seed(seed)
    unet = SwinUNet(config).eval()
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return unet


@pytest.mark.parametrize(("name", "num_inputs"), [("swin_unet_sr", 2), ("swin_unet_inpaint", 1)])
def test_golden(name, num_inputs):
    params, state_dict, golden = network(name)
    unet = SwinUNet.from_official(params, state_dict)
    for i in range(num_inputs):
        inputs = [golden[f"in{i}_{k}"] for k in ("x", "t", "lq")]
        with torch.no_grad():
            out = unet(*inputs, golden.get(f"in{i}_mask"))
        torch.testing.assert_close(out, golden[f"out{i}"], rtol=0, atol=1e-5)
    # With gradients another attention kernel runs.
    torch.testing.assert_close(unet(*inputs, golden.get(f"in{i}_mask")), golden[f"out{i}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions"), [("realsr_x4", 118.59), ("realsr_x2", 118.64), ("inpaint", 118.71), ("face512", 118.93)]
)
def test_official_checkpoints_load_strictly(name, millions):
    weights = {key: torch.empty(shape, device="meta") for key, shape in official_shapes(name).items()}
    unet = SwinUNet.from_official(official_params(name), weights)
    assert sum(p.numel() for p in unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_a_checkpoint_that_does_not_fit_is_one_clear_error():
    params, state_dict, _ = network("swin_unet_sr")
    fits = dict(state_dict)
    fits["middle_block.1.blocks.1.attn_mask"] = torch.zeros(4, 64, 64)  # derived, so tolerated
    SwinUNet.from_official(params, fits)
    SwinUNet.from_official(params, {"state_dict": {f"module._orig_mod.{key}": value for key, value in fits.items()}})
    broken = {key: value for key, value in state_dict.items() if key != "out.2.bias"}
    broken["stray"] = torch.zeros(1)
    broken["out.2.weight"] = torch.zeros(3, 32, 1, 1)
    with pytest.raises(ValueError, match="does not fit") as error:
        SwinUNet.from_official(params, broken)
    for part in ("1 missing: out.2.bias", "1 unexpected: stray", "out.2.weight (3, 32, 1, 1) instead of (3, 32, 3, 3)"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="more"):
        SwinUNet.from_official(params, {})


def test_unsupported_official_parameters_are_named():
    params = official_params("realsr_x4")
    with pytest.raises(ValueError, match="resblock_updown is True"):
        SwinUNet.from_official({**params, "resblock_updown": True}, {})
    with pytest.raises(ValueError, match="window_sise"):
        SwinUNet.from_official({**params, "window_sise": 8}, {})


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 16), (17, 15), (16, 33)])
@pytest.mark.parametrize("factor", [1, 4])
def test_any_size(size, factor):
    unet = active(dataclasses.replace(TINY, lq_size=16 * factor, cond_mask=factor == 4))
    x = torch.randn(1, 3, *size)
    lq = torch.randn(1, 3, size[0] * factor, size[1] * factor)
    with torch.no_grad():
        out = unet(x, torch.tensor([3]), lq, lq[:, :1] if factor == 4 else None)
    assert out.shape == x.shape
    assert out.isfinite().all()


def test_padding_inside_the_attention_is_never_seen():
    """What the network does at an odd size equals what it does to the same map with other values in the padding."""
    mask = window_mask(6, 5, 4, 2, torch.device("cpu"))
    padding = torch.ones(8, 8, dtype=torch.bool)
    padding[:6, :5] = False
    shifted = padding.roll((-2, -2), (0, 1)).unflatten(0, (2, 4)).unflatten(2, (2, 4)).transpose(1, 2).flatten(0, 1)
    shifted = shifted.flatten(1)  # (M, N)
    sees_padding = ~shifted[:, :, None] & shifted[:, None, :]
    assert (mask[sees_padding] == MASKED).all()
    assert window_mask(8, 8, 4, 0, torch.device("cpu")) is None


def test_a_width_that_32_does_not_divide_takes_fewer_groups():
    narrow = dataclasses.replace(TINY, model_channels=16, swin_embed_dim=16, norm_groups=8)
    x = torch.randn(1, 3, 16, 16)
    assert SwinUNet(narrow)(x, torch.tensor([0]), x).shape == x.shape
    vqgan = VQGAN(VQGANConfig(ch=16, ch_mult=(1, 1), num_res_blocks=1, n_embed=16, norm_groups=8))
    assert vqgan.decode(vqgan.encode(x)).shape == x.shape


@pytest.mark.parametrize("size", [(24, 24), (21, 22)])
def test_attention_in_pieces_is_the_same(monkeypatch, size):
    """Windows beyond what a grid of CUDA counts, in the batch and, where they have a mask, in the heads."""
    unet = active(TINY)
    x, t = torch.randn(2, 3, *size), torch.tensor([0, 1])
    shapes = []

    def watched(q, k, v, attn_mask):
        shapes.append(q.shape[:2])
        return attend(q, k, v, attn_mask=attn_mask)

    attend = swin_attention.F.scaled_dot_product_attention
    with torch.no_grad():
        whole = unet(x, t, x)
        monkeypatch.setattr(swin_attention, "MOST_AT_ONCE", 7)
        monkeypatch.setattr(swin_attention.F, "scaled_dot_product_attention", watched)
        assert torch.equal(unet(x, t, x), whole)
    assert max(max(shape) for shape in shapes) == 7


def test_masks_are_the_same_compiled():
    unet = active(TINY)
    x, t = torch.randn(1, 3, 21, 22), torch.tensor([0])
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(unet, backend="eager")(x, t, x), unet(x, t, x))


def test_masks_made_in_inference_mode_still_train():
    unet = active(TINY)
    x, t = torch.randn(1, 3, 24, 24), torch.tensor([0])
    with torch.inference_mode():
        unet(x, t, x)
    unet(x, t, x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unet.parameters())


def test_each_image_of_a_batch_is_on_its_own():
    unet = active(TINY)
    x, lq, t = torch.randn(3, 3, 16, 24), torch.randn(3, 3, 16, 24), torch.tensor([0, 2, 3])
    with torch.no_grad():
        together = unet(x, t, lq)
        alone = torch.cat([unet(x[i : i + 1], t[i : i + 1], lq[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_pixel_space_bfloat16_and_channels_last():
    unet = active(dataclasses.replace(TINY, use_scale_shift_norm=False, patch_norm=True))
    x, t = torch.randn(1, 3, 20, 20), torch.tensor([1])
    with torch.no_grad():
        reference = unet(x, t, x)
        torch.testing.assert_close(unet.to(memory_format=torch.channels_last)(x, t, x), reference, rtol=0, atol=1e-4)
        half = unet.bfloat16()(x, t, x)
    assert half.dtype == x.dtype
    assert (half - reference).square().mean().sqrt() < 0.1 * reference.square().mean().sqrt()


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"x": (1, 4, 16, 16)}, "x has shape"),
        ({"t": (2,)}, "t has shape"),
        ({"lq": (1, 3, 32, 32)}, "lq has shape"),
        ({"mask": (1, 1, 16, 16)}, "mask was given"),
    ],
)
def test_inputs_of_another_shape_are_named(inputs, named):
    shapes = {"x": (1, 3, 16, 16), "t": (1,), "lq": (1, 3, 16, 16), **inputs}
    with pytest.raises(ValueError, match=named):
        SwinUNet(TINY)(**{name: torch.zeros(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 15),
        ("model_channels", 40),
        ("swin_embed_dim", 48),
        ("lq_size", 24),
        ("num_res_blocks", (1, 2, 3)),
        ("dropout", 1.0),
        ("window_size", 0),
    ],
)
def test_a_bad_configuration_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} is"):
        dataclasses.replace(TINY, **{field: value})


def test_configuration_as_a_recipe_section():
    adapter = TypeAdapter(SwinUNetConfig)
    section = dataclasses.asdict(TINY) | {"channel_mult": [1, 1], "num_res_blocks": [1, 1]}
    assert adapter.validate_python(section) == dataclasses.replace(TINY, num_res_blocks=(1, 1))
    with pytest.raises(ValidationError, match="channel_mul"):
        adapter.validate_python({"channel_mul": [1, 2]})
