"""A restorer on disk: model.json, denoiser.safetensors and, in latent space, the files of the autoencoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from resshift.schedule import EtaSchedule
from resshift.swin_unet import SwinUNet
from resshift.swin_unet_config import SwinUNetConfig
from resshift.vqgan import VQGAN
from resshift.weights import (
    build_with_weights,
    config_from_dict,
    load_vqgan,
    read_json,
    save_vqgan,
    save_weights,
    write_json,
)

MODEL_JSON = "model.json"
DENOISER_WEIGHTS = "denoiser.safetensors"


@dataclass(frozen=True)
class Bundle:
    """What a restorer is made of; see `Restorer.__init__`."""

    denoiser: SwinUNet
    autoencoder: VQGAN | None
    schedule: EtaSchedule
    scale: int
    task: str
    tile_size: int
    tile_overlap: int


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write all files, model.json last: with it the folder is complete."""
    save_weights(bundle.denoiser, folder / DENOISER_WEIGHTS)
    if bundle.autoencoder is not None:
        save_vqgan(bundle.autoencoder, folder)
    content = {
        "task": bundle.task,
        "scale": bundle.scale,
        "tile_size": bundle.tile_size,
        "tile_overlap": bundle.tile_overlap,
        "latent_space": bundle.autoencoder is not None,
        "schedule": {"kappa": bundle.schedule.kappa, "sqrt_eta": bundle.schedule.sqrt_eta.tolist()},
        "denoiser": dataclasses.asdict(bundle.denoiser.config),
    }
    write_json(folder / MODEL_JSON, content)


def read_bundle(folder: Path, device: torch.device | str) -> Bundle:
    """Read what `write_bundle` wrote. ValueError when a file is missing or damaged, or files do not fit each other."""
    path = folder / MODEL_JSON
    content = read_json(path)
    expected = {"task", "scale", "tile_size", "tile_overlap", "latent_space", "schedule", "denoiser"}
    if missing := sorted(expected - set(content)):
        raise ValueError(f"'{path}' lacks {missing}; the saved model is damaged, save it again")
    config = config_from_dict(SwinUNetConfig, content["denoiser"], path)
    schedule = config_from_dict(EtaSchedule, content["schedule"], path)
    return Bundle(
        build_with_weights(lambda: SwinUNet(config), folder / DENOISER_WEIGHTS, device),
        load_vqgan(folder, device) if content["latent_space"] else None,
        schedule,
        content["scale"],
        content["task"],
        content["tile_size"],
        content["tile_overlap"],
    )
