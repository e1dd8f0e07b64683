"""An official ResShift release, its YAML and its two checkpoints, as a restorer and a recipe of ours."""

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from infra.errors import UsageError
from infra.recipe import TASKS, Recipe
from resshift.restorer import Restorer
from resshift.schedule import ScheduleConfig
from resshift.swin_unet import SwinUNet
from resshift.vqgan import VQGAN

_INTERPOLATION = re.compile(r"^\$\{([\w.]+)\}$")
_TASK_OF_DATA = {
    "realesrgan": "super_resolution",
    "bicubic": "super_resolution",
    "gfpgan": "face_restoration",
    "inpainting": "inpainting",
}
_SUPPORTED = {
    "schedule_name": "exponential",
    "predict_type": "xstart",
    "timestep_respacing": None,
    "normalize_input": True,
    "latent_flag": True,
}
"""Settings of `diffusion.params` that every released model shares; the method as it is built here is that."""
_TRAINING_ONLY = {"weighted_mse"}
_READ = {"sf", "schedule_kwargs", "etas_end", "steps", "min_noise_level", "kappa", "scale_factor"}


@dataclass(frozen=True)
class OfficialConfig:
    """What an official YAML says about a trained model, in our words."""

    task: str
    scale: int
    denoiser: Mapping[str, Any]
    """`model.params`."""
    autoencoder: Mapping[str, Any]
    """`autoencoder.params`."""
    schedule: ScheduleConfig
    latent_scale: float


def read_config(path: Path, task: str | None = None) -> OfficialConfig:
    """Read an official YAML. `task` says what the model is for where the file does not.

    Raises UsageError for a file that is none, and for settings that no released model has.
    """
    content = _read_yaml(path)
    try:
        model, diffusion, autoencoder = (
            {key: _resolved(value, content) for key, value in content[section]["params"].items()}
            for section in ("model", "diffusion", "autoencoder")
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"config '{path}': no params of model, diffusion and autoencoder ({error}); give a YAML file of the "
            "official configs/ folder"
        ) from error
    scale = _whole(path, "sf", diffusion.get("sf", 1))
    return OfficialConfig(
        task=_task(path, content, model, scale, task),
        scale=scale,
        denoiser=model,
        autoencoder=autoencoder,
        schedule=_schedule(path, diffusion),
        latent_scale=_number(path, "scale_factor", diffusion.get("scale_factor", 1.0)),
    )


def build_restorer(config: OfficialConfig, denoiser: Path, autoencoder: Path) -> Restorer:
    """The restorer of a configuration and the files of its weights. Raises UsageError for what does not fit."""
    parts: list[Any] = []
    for what, path, kind, params in (
        ("denoiser", denoiser, SwinUNet, config.denoiser),
        ("autoencoder", autoencoder, VQGAN, config.autoencoder),
    ):
        checkpoint = _read_checkpoint(what, path)
        try:
            parts.append(kind.from_official(params, checkpoint))  # type: ignore[attr-defined]
        except ValueError as error:
            raise UsageError(f"{what} '{path}': {error}") from error
        except (TypeError, AttributeError, OverflowError) as error:  # a value of another kind than the network takes
            line = " ".join(str(error).split())[:200]
            raise UsageError(f"{what}: its params in the YAML file are no released model's ({line})") from error
    unet, vqgan = parts
    vqgan.latent_scale = config.latent_scale
    try:
        return Restorer(unet, vqgan, config.schedule.build(), config.scale, config.task)
    except ValueError as error:
        raise UsageError(f"denoiser '{denoiser}' and autoencoder '{autoencoder}': {error}") from error


def official_recipe(config: OfficialConfig, restorer: Restorer, name: str) -> Recipe:
    """A recipe that describes the model: what it is, not how it was trained."""
    assert restorer.autoencoder is not None, "official models work on latents"
    return Recipe.from_dict(
        {
            "name": name,
            "task": config.task,
            "scale": config.scale,
            "autoencoder": {"network": _plain(asdict(restorer.autoencoder.config))},
            "denoiser": _plain(asdict(restorer.denoiser.config)),
            "schedule": _plain(asdict(config.schedule)),
        }
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"config '{path}': cannot be read ({error}); give an official YAML file") from error
    if not isinstance(content, dict):
        raise UsageError(f"config '{path}': is no mapping; give an official YAML file")
    return content


def _resolved(value: Any, content: Mapping[str, Any]) -> Any:
    """A value with the file's own references (`${autoencoder.params.embed_dim}`) replaced by what they name."""
    if isinstance(value, Mapping):
        return {key: _resolved(item, content) for key, item in value.items()}
    if not (isinstance(value, str) and (match := _INTERPOLATION.match(value))):
        return value
    found: Any = content
    for key in match[1].split("."):
        found = found[key]
    return _resolved(found, content)


def _task(path: Path, content: Mapping[str, Any], model: Mapping[str, Any], scale: int, given: str | None) -> str:
    """What the model is for: given, or what its network and training data tell."""
    if given is not None and given not in TASKS:
        raise UsageError(f"task: '{given}' is unknown; choose one of {', '.join(TASKS)}")
    data = _mapping(path, "data", content.get("data"))
    kind = str(_mapping(path, "data.train", data.get("train")).get("type"))
    told = "inpainting" if model.get("cond_mask") else _TASK_OF_DATA.get(kind)
    if told is None and scale > 1:
        told = "super_resolution"
    if given is not None and told is not None and "inpainting" in (given, told) and given != told:
        raise UsageError(f"task: '{given}' does not fit config '{path}', whose network is for {told}; leave it out")
    if (task := given or told) is None:
        raise UsageError(f"config '{path}': data.train.type is {kind}, which tells no task; give --task")
    return task


def _schedule(path: Path, diffusion: Mapping[str, Any]) -> ScheduleConfig:
    for key, supported in _SUPPORTED.items():
        if (value := diffusion.get(key, supported)) != supported:
            raise UsageError(f"config '{path}': diffusion.params.{key} is {value!r}; only {supported!r} is supported")
    known = {*_SUPPORTED, *_TRAINING_ONLY, *_READ}
    if unknown := sorted(map(str, set(diffusion) - known)):
        valid = ", ".join(sorted(known))
        raise UsageError(f"config '{path}': diffusion.params.{unknown[0]} is not known; known: {valid}")
    missing = sorted({"steps", "min_noise_level", "etas_end", "kappa"} - set(diffusion))
    if missing:
        raise UsageError(f"config '{path}': diffusion.params.{missing[0]} is missing; give the YAML of the checkpoint")
    kwargs = _mapping(path, "diffusion.params.schedule_kwargs", diffusion.get("schedule_kwargs"))
    level, sqrt_eta_end, kappa = (
        _number(path, key, diffusion[key])
        for key in ("min_noise_level", "etas_end", "kappa")  # the end is the square root, whatever its name says
    )
    power = _number(path, "schedule_kwargs.power", kwargs.get("power", 0.3))
    steps = _whole(path, "steps", diffusion["steps"])
    try:
        return ScheduleConfig(steps, level, sqrt_eta_end, kappa, power)
    except ValueError as error:
        raise UsageError(f"config '{path}': diffusion.params: {error}") from error


def _mapping(path: Path, field: str, value: Any) -> Mapping[str, Any]:
    """A part of the file that is a mapping or left empty. Raises UsageError."""
    if value is not None and not isinstance(value, Mapping):
        raise UsageError(f"config '{path}': {field} is {value!r}; give a mapping or leave it out")
    return value or {}


def _number(path: Path, key: str, value: Any) -> float:
    """A number of `diffusion.params`; YAML takes 1e-4, which has no point, for text. Raises UsageError."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"config '{path}': diffusion.params.{key} is {value!r}; give a number") from error
    if not math.isfinite(number):
        raise UsageError(f"config '{path}': diffusion.params.{key} is {value!r}; give a finite number")
    return number


def _whole(path: Path, key: str, value: Any) -> int:
    number = _number(path, key, value)
    if not number.is_integer():
        raise UsageError(f"config '{path}': diffusion.params.{key} is {value!r}; give a whole number")
    return int(number)


def _read_checkpoint(what: str, path: Path) -> Mapping[str, Any]:
    """The tensors of a checkpoint; nothing in the file is executed."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise UsageError(f"{what} '{path}': cannot be read ({error.strerror}); give a .pth file") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise UsageError(f"{what} '{path}': holds no plain weights ({line}); give the released .pth file") from error
    if not isinstance(checkpoint, Mapping):
        raise UsageError(f"{what} '{path}': holds a {type(checkpoint).__name__}; give the released .pth file")
    return checkpoint


def _plain(value: Any) -> Any:
    """Tuples as lists, as YAML and JSON have them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
