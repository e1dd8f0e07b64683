"""An official YAML file and its checkpoints become a registered version; the layout is that of the released files."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from evaluation.official import build_restorer, read_config
from evaluation.official_import import import_official
from infra.errors import UsageError
from infra.models import fetch
from infra.recipe import Recipe
from pipelines.autoencoder import AutoencoderConfig
from resshift import VQGAN, EtaSchedule, Restorer, ScheduleConfig, SwinUNet, SwinUNetConfig

SHAPES = Path(__file__).parents[1] / "golden" / "official_state_dict_shapes.json"

DENOISER = {
    "image_size": 64, "in_channels": 3, "model_channels": 160, "out_channels": "${autoencoder.params.embed_dim}",
    "attention_resolutions": [64, 32, 16, 8], "dropout": 0, "channel_mult": [1, 2, 2, 4],
    "num_res_blocks": [2, 2, 2, 2], "conv_resample": True, "dims": 2, "use_fp16": False, "num_head_channels": 32,
    "use_scale_shift_norm": True, "resblock_updown": False, "swin_depth": 2, "swin_embed_dim": 192, "window_size": 8,
    "mlp_ratio": 4, "cond_lq": True, "lq_size": 64,
}  # fmt: skip
DIFFUSION = {
    "sf": 4, "schedule_name": "exponential", "schedule_kwargs": {"power": 0.3}, "etas_end": 0.99, "steps": 4,
    "min_noise_level": 0.2, "kappa": 2.0, "weighted_mse": False, "predict_type": "xstart", "timestep_respacing": None,
    "scale_factor": 1.0, "normalize_input": True, "latent_flag": True,
}  # fmt: skip
F4 = {
    "embed_dim": 3, "n_embed": 8192, "ddconfig": {
        "double_z": False, "z_channels": 3, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0, "padding_mode": "zeros",
    },
}  # fmt: skip
F8 = {
    "embed_dim": 8, "n_embed": 4096,
    "ddconfig": F4["ddconfig"] | {
        "z_channels": 8, "resolution": 512, "ch": 64, "ch_mult": [1, 2, 4, 8], "num_res_blocks": [1, 2, 3, 4],
    },
}  # fmt: skip
SMALL_DENOISER = {"model_channels": 32, "channel_mult": [1, 1], "num_res_blocks": [1, 1], "swin_embed_dim": 32,
                  "image_size": 16, "lq_size": 16, "attention_resolutions": [16]}  # fmt: skip
SMALL_F4 = {"embed_dim": 3, "n_embed": 16, "ddconfig": F4["ddconfig"] | {"ch": 32, "ch_mult": [1, 1, 1]}}


def official_yaml(data="realesrgan", denoiser=None, diffusion=None, autoencoder=F4) -> dict:
    return copy.deepcopy(
        {
            "trainer": {"target": "trainer.TrainerDifIRLPIPS"},
            "autoencoder": {"target": "ldm.models.autoencoder.VQModelTorch", "params": autoencoder},
            "model": {"target": "models.unet.UNetModelSwin", "params": DENOISER | (denoiser or {})},
            "diffusion": {"target": "models.script_util", "params": DIFFUSION | (diffusion or {})},
            "data": {"train": {"type": data}},
        }
    )


FIFTEEN_STEPS = {"steps": 15, "min_noise_level": 0.04}
RELEASED = {
    "realsr_x4": ("super_resolution", 4, official_yaml()),
    "realsr_x4_15_steps": ("super_resolution", 4, official_yaml(diffusion=FIFTEEN_STEPS)),
    "bicubic_x4": ("super_resolution", 4, official_yaml("bicubic")),
    "realsr_x2": ("super_resolution", 2, official_yaml(denoiser={"lq_size": 128}, diffusion={"sf": 2})),
    "inpaint": (
        "inpainting", 1, official_yaml("inpainting", {"cond_mask": True, "lq_size": 256}, {"sf": 1}),
    ),
    "face512": (
        "face_restoration", 1,
        official_yaml("gfpgan", {"in_channels": 8, "lq_size": 512}, {"sf": 1}, autoencoder=F8),
    ),
}  # fmt: skip


def written(tmp_path, content) -> Path:
    path = tmp_path / "official.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def small(tmp_path):
    """Paths of a small model in the layout of a release: YAML, denoiser, autoencoder."""
    torch.manual_seed(0)
    content = official_yaml(denoiser=SMALL_DENOISER, autoencoder=SMALL_F4)
    config = read_config(written(tmp_path, content))
    unet = SwinUNet(SwinUNetConfig.from_official(config.denoiser))
    vqgan = VQGAN.from_official(SMALL_F4, VQGAN(read_vqgan_config(SMALL_F4)).state_dict())
    # as the releases are saved: wrapped, in half precision names or not, with the buffers the network derives
    weights = {f"module.{key}": value for key, value in unet.state_dict().items()}
    weights["module.input_blocks.1.1.blocks.0.attn.relative_position_index"] = torch.zeros(64, 64)
    torch.save({"state_dict": weights}, tmp_path / "denoiser.pth")
    torch.save(vqgan.state_dict(), tmp_path / "autoencoder.pth")
    return {"config": str(tmp_path / "official.yaml"), "denoiser": str(tmp_path / "denoiser.pth"),
            "autoencoder": str(tmp_path / "autoencoder.pth")}  # fmt: skip


def read_vqgan_config(params):
    from resshift import VQGANConfig

    return VQGANConfig.from_official(params)


@pytest.mark.parametrize("name", RELEASED)
def test_every_released_configuration_is_understood(name, tmp_path):
    task, scale, content = RELEASED[name]
    config = read_config(written(tmp_path, content))
    assert (config.task, config.scale, config.latent_scale) == (task, scale, 1.0)
    steps, level = (15, 0.04) if name == "realsr_x4_15_steps" else (4, 0.2)
    assert config.schedule == ScheduleConfig(steps, level, sqrt_eta_end=0.99, kappa=2.0, power=0.3)
    denoiser = SwinUNetConfig.from_official(config.denoiser)
    assert denoiser.out_channels == denoiser.in_channels == read_vqgan_config(config.autoencoder).embed_dim
    assert denoiser.cond_mask == (task == "inpainting")


def test_import_registers_a_version_that_restores(small, tmp_path, mlflow_store):
    planned = import_official(**small, name="released", dry_run=True)
    assert planned["recipe"]["task"] == "super_resolution"
    assert "version" not in planned
    described = import_official(**small, name="released")
    assert described["uri"] == "models:/released/1"
    bundle = fetch("models:/released/1")
    loaded = Restorer.load(bundle)
    config = read_config(Path(small["config"]))
    direct = build_restorer(config, Path(small["denoiser"]), Path(small["autoencoder"]))
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(loaded(image, seed=1), direct(image, seed=1))
    assert loaded(image).shape == (36, 48, 3)
    expected = EtaSchedule.exponential(4, 0.2, 0.99, 2.0, 0.3)
    torch.testing.assert_close(loaded.schedule.sqrt_eta, expected.sqrt_eta, rtol=0, atol=0)
    recipe = Recipe.from_dict(json.loads((bundle / "recipe.json").read_text()))
    assert (recipe.name, recipe.task, recipe.scale) == ("released", "super_resolution", 4)
    assert recipe.section("denoiser", SwinUNetConfig) == loaded.denoiser.config
    assert recipe.section("schedule", ScheduleConfig) == config.schedule
    assert recipe.section("autoencoder", AutoencoderConfig).network == loaded.autoencoder.config


def test_command(small, mlflow_store):
    options = [item for key, value in small.items() for item in (f"--{key}", value)]
    command = [sys.executable, "evaluation/import_official.py", *options, "--model", "released"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip().endswith("registered: models:/released/1 (super_resolution x4)")
    (Path(small["denoiser"])).write_bytes(b"no checkpoint")
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith(f"error: denoiser '{small['denoiser']}': holds no plain weights")
    assert failed.stderr.count("\n") == 1


class Opened:
    """What a pickle must not be allowed to make."""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"diffusion": {"predict_type": "residual"}}, r"diffusion.params.predict_type is 'residual'; only 'xstart'"),
        ({"diffusion": {"normalize_input": False}}, r"normalize_input is False; only True"),
        ({"diffusion": {"etas_begin": 1}}, r"diffusion.params.etas_begin is not known; known: etas_end, kappa, latent"),
        ({"diffusion": {"sf": None}}, r"diffusion.params.sf is None; give a number"),
        ({"diffusion": {"sf": "four"}}, r"diffusion.params.sf is 'four'; give a number"),
        ({"diffusion": {"sf": 4.5}}, r"diffusion.params.sf is 4.5; give a whole number"),
        ({"diffusion": {"steps": 4.5}}, r"diffusion.params.steps is 4.5; give a whole number"),
        ({"diffusion": {"scale_factor": None}}, r"diffusion.params.scale_factor is None; give a number"),
        ({"diffusion": {"kappa": float("inf")}}, r"diffusion.params.kappa is inf; give a finite number"),
        ({"diffusion": {"schedule_kwargs": [0.3]}}, r"schedule_kwargs is \[0.3\]; give a mapping or leave it out"),
        ({"denoiser": {"window_size": None}}, r"denoiser: its params in the YAML file are no released model's"),
        ({"denoiser": {"dropout": "${model.params.dropout}"}}, r"no params of model, diffusion and autoencoder"),
        ({"diffusion": {"etas_end": 1.5}}, r"diffusion.params: sqrt_eta_end is 1.5"),
        ({"diffusion": {"sf": 1}, "data": "folders"}, r"data.train.type is folders, which tells no task; give --task"),
        ({"denoiser": {"cond_lq": False}}, r"denoiser '.*': cond_lq is False"),
        ({"denoiser": {"swin_depth": 3}}, r"denoiser '.*': .* missing: .*blocks.2"),
        ({"denoiser": {"cond_mask": True}}, r"denoiser '.*': .* of another shape"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(change, expected, small, tmp_path, mlflow_store):
    denoiser = SMALL_DENOISER | change.pop("denoiser", {})
    written(tmp_path, official_yaml(denoiser=denoiser, autoencoder=SMALL_F4, **change))
    with pytest.raises(UsageError, match=expected) as caught:
        import_official(**small, name="released", dry_run=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("data", "complaint"), [(5, "data is 5"), ({"train": [5]}, r"data.train is \[5\]")])
def test_data_that_is_no_mapping_is_one_clear_line(data, complaint, tmp_path):
    with pytest.raises(UsageError, match=f"{complaint}; give a mapping or leave it out"):
        read_config(written(tmp_path, official_yaml() | {"data": data}))


def test_bad_files_are_one_clear_line(small, tmp_path):
    torch.save(Opened(), tmp_path / "object.pth")
    for change, expected in (
        ({"denoiser": str(tmp_path / "object.pth")}, "holds no plain weights"),
        ({"autoencoder": small["denoiser"]}, "autoencoder '.*': .* missing: encoder"),
        ({"autoencoder": str(tmp_path / "none.pth")}, "autoencoder '.*none.pth': does not exist"),
        ({"config": small["denoiser"]}, "config '.*': cannot be read"),
        ({"task": "dreaming"}, "task: 'dreaming' is unknown; choose one of"),
        ({"task": "inpainting"}, "task: 'inpainting' does not fit"),
    ):
        with pytest.raises(UsageError, match=expected):
            import_official(**{**small, "name": "released", "dry_run": True, **change})


@pytest.mark.faults
@pytest.mark.parametrize("name", ["realsr_x4", "inpaint", "face512", "realsr_x2"])
def test_full_size_releases(name, tmp_path, mlflow_store):
    """Random weights of every shape in the released files load strictly; one of them is registered and fetched, too."""
    task, scale, content = RELEASED[name]
    shapes = json.loads(SHAPES.read_text())
    generator = torch.Generator().manual_seed(0)
    for what, key in (("denoiser", name), ("autoencoder", "vqgan_f8_face" if name == "face512" else "vqgan_f4")):
        weights = {
            key: torch.randn(shape, generator=generator) * 0.02 if "index" not in key else torch.zeros(shape).long()
            for key, shape in shapes[key].items()
        }
        torch.save(weights, tmp_path / f"{what}.pth")
    files = {what: str(tmp_path / f"{what}.pth") for what in ("denoiser", "autoencoder")}
    config = str(written(tmp_path, content))
    described = import_official(config, **files, name=name, dry_run=name != "realsr_x4")
    assert (described["recipe"]["task"], described["recipe"]["scale"]) == (task, scale)
    if "version" in described:
        loaded = Restorer.load(fetch(described["uri"]))
        saved = torch.load(files["denoiser"], weights_only=True)
        assert sum(p.numel() for p in loaded.denoiser.parameters()) == 118_593_583
        for key, value in loaded.denoiser.state_dict().items():
            assert torch.equal(value, saved[key]), key
