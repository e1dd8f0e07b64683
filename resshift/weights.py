"""Networks on disk: safetensors beside a JSON file that says what they are. Files appear whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from resshift.state_dict import Module, load_strictly
from resshift.vqgan import VQGAN
from resshift.vqgan_config import VQGANConfig

Config = TypeVar("Config")

AUTOENCODER_JSON = "autoencoder.json"
AUTOENCODER_WEIGHTS = "autoencoder.safetensors"
PREPROCESSING = "RGB uint8 / 127.5 - 1, completed by mirroring at the bottom and right"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever sees a part of it; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ValueError when the file is missing or is none."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}); give a saved model's folder") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' is not a JSON object; the saved model is damaged, save it again")
    return content


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a network's state dict as safetensors, atomically; same weights, same bytes."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; ValueError when it is missing or damaged."""
    if not path.is_file():
        raise ValueError(f"weights file '{path}' does not exist; give a folder that holds a saved model")
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"'{path}' is not a readable safetensors file ({error}); save or fetch it again") from None


def build_with_weights(build: Callable[[], Module], path: Path, device: torch.device | str) -> Module:
    """Build a network and give it the weights of a safetensors file; returned in evaluation mode, float32.

    Raises:
        ValueError: the file is missing, damaged or does not fit the network; the first misfits are named.
    """
    weights = read_weights(path)
    with torch.device("meta"):
        module = build()
    return load_strictly(module, weights, f"weights file '{path}'").to(device).eval()


def config_from_dict(kind: Callable[..., Config], content: Any, source: Path) -> Config:
    """A configuration read back from JSON; ValueError that names the file when it does not fit."""
    try:
        return kind(**content)
    except TypeError as error:
        raise ValueError(f"'{source}' does not hold a valid configuration: {error}") from None
    except ValueError as error:
        raise ValueError(f"'{source}' holds an invalid configuration: {error}") from None


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of a network's weights, in the order of their names."""
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{key} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def fingerprint(vqgan: VQGAN) -> dict[str, Any]:
    """What decides the raw latents of an image: two autoencoders with equal fingerprints encode alike.

    Keys: weights_sha256, norm_groups (which no weight shows), preprocessing, downscale (4 for f4, 8 for f8),
    latent_channels. JSON-able.
    """
    return {
        "weights_sha256": weights_sha256(vqgan),
        "norm_groups": vqgan.config.norm_groups,
        "preprocessing": PREPROCESSING,
        "downscale": vqgan.downscale,
        "latent_channels": vqgan.config.embed_dim,
    }


def save_vqgan(vqgan: VQGAN, folder: Path | str, latent_scale: float | None = None) -> dict[str, Any]:
    """Write `folder`/autoencoder.safetensors and autoencoder.json {config, latent_scale, fingerprint}.

    Args:
        latent_scale: written instead of the network's own, if given.

    Returns:
        The fingerprint.
    """
    folder = Path(folder)
    identity = fingerprint(vqgan)
    save_weights(vqgan, folder / AUTOENCODER_WEIGHTS)
    content = {
        "config": dataclasses.asdict(vqgan.config),
        "latent_scale": float(vqgan.latent_scale if latent_scale is None else latent_scale),
        "fingerprint": identity,
    }
    write_json(folder / AUTOENCODER_JSON, content)
    return identity


def load_vqgan(folder: Path | str, device: torch.device | str = "cpu") -> VQGAN:
    """Read back what `save_vqgan` wrote: in evaluation mode, float32.

    Raises:
        ValueError: a file is missing or damaged, or the weights are not those that the JSON file describes.
    """
    folder = Path(folder)
    path = folder / AUTOENCODER_JSON
    content = read_json(path)
    missing = [key for key in ("config", "latent_scale", "fingerprint") if key not in content]
    if missing:
        raise ValueError(f"'{path}' lacks {missing}; the saved autoencoder is damaged, save it again")
    config = config_from_dict(VQGANConfig, content["config"], path)
    scale = float(content["latent_scale"])
    vqgan = build_with_weights(lambda: VQGAN(config, latent_scale=scale), folder / AUTOENCODER_WEIGHTS, "cpu")
    if weights_sha256(vqgan) != content["fingerprint"].get("weights_sha256"):
        raise ValueError(f"the weights in '{folder}' are not those of its {AUTOENCODER_JSON}; save or fetch both again")
    return vqgan.to(device)
