"""Recipes: one YAML file describes one run end to end.

A recipe may start from another one (`extends: realsr_x4`); mappings are merged key by key, everything else is
replaced. Each section is validated by the model that stands beside its owner, when a command asks for it:
`recipe.section("training", TrainingConfig)`. The rooms that own the models lie above this one, so they hand them in.
"""

import copy
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from infra.errors import UsageError

T = TypeVar("T")

SECTIONS = (
    "name task scale degradation shards autoencoder denoiser schedule training evaluation promotion".split()  # noqa: SIM905
)
TASKS = ("super_resolution", "inpainting", "face_restoration", "deblurring")


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: extends merged, overrides applied. `raw` is plain JSON data."""

    name: str
    task: str
    scale: int
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], origin: str = "recipe") -> "Recipe":
        """Check the top level (names of sections, task, scale) and wrap it. Raises UsageError."""
        unknown = sorted(set(raw) - set(SECTIONS))
        if unknown:
            raise UsageError(f"{origin}: unknown section '{unknown[0]}'; valid sections: {', '.join(SECTIONS)}")
        missing = [key for key in ("name", "task", "scale") if key not in raw]
        if missing:
            raise UsageError(f"{origin}: '{missing[0]}' is missing; add it at the top level")
        if raw["task"] not in TASKS:
            raise UsageError(f"{origin}: task: '{raw['task']}' is unknown; choose one of {', '.join(TASKS)}")
        if type(raw["scale"]) is not int or raw["scale"] not in (1, 2, 4, 8):  # True is 1 to Python, 4.0 is 4
            raise UsageError(f"{origin}: scale: {raw['scale']!r} is not supported; choose 1, 2, 4 or 8")
        return cls(name=str(raw["name"]), task=raw["task"], scale=raw["scale"], raw=raw)

    def section(self, name: str, model: type[T]) -> T:
        """Validate one section against its owner's model. Raises UsageError naming the key and the valid ones."""
        value = self.raw.get(name, {})
        try:
            return TypeAdapter(model).validate_python(value)
        except ValidationError as error:
            raise UsageError(_explain(error, name, model)) from error

    def resolved(self, **sections: type) -> dict[str, Any]:
        """Name, task, scale and the given sections with every default filled in, as JSON data."""
        out: dict[str, Any] = {"name": self.name, "task": self.task, "scale": self.scale}
        for name, model in sections.items():
            out[name] = TypeAdapter(model).dump_python(self.section(name, model), mode="json")
        return out


def load_recipe(ref: str, overrides: list[str] | None = None) -> Recipe:
    """Load a shipped recipe by name, or a YAML file by path, and apply `section.key=value` overrides.

    Raises UsageError when the recipe does not exist, is no YAML mapping, or an override does not parse.
    """
    raw = _read(ref, seen=())
    for override in overrides or []:
        _apply_override(raw, override)
    _check_json(raw, f"recipe '{ref}'")
    return Recipe.from_dict(raw, origin=f"recipe '{ref}'")


def shipped_recipes() -> list[str]:
    """Names that `--recipe` takes without a path."""
    files = resources.files("infra.recipes").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in files if entry.name.endswith(".yaml"))


def digest(value: Any) -> str:
    """sha256 of JSON data in canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def difference(old: Any, new: Any, path: str = "") -> list[str]:
    """Human-readable list of the leaves in which two JSON values differ: `shards.seed: 1 -> 2`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in sorted(set(old) | set(new)):
            lines += difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        return lines
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any, limit: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _read(ref: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if ref in seen:
        raise UsageError(f"recipe '{seen[0]}': extends itself ({' -> '.join((*seen, ref))}); remove one 'extends'")
    path = Path(ref)
    is_file = os.path.isfile(ref)  # noqa: PTH113 (of Path, it raises for a name that is too long)
    if path.suffix in (".yaml", ".yml") or is_file:
        if not is_file:
            raise UsageError(f"recipe file '{ref}' does not exist; give an existing .yaml file or a shipped name")
        text = _read_file(path)
    elif ref in shipped_recipes():
        text = resources.files("infra.recipes").joinpath(f"{ref}.yaml").read_text()
    else:
        shipped = ", ".join(shipped_recipes())
        raise UsageError(f"recipe '{ref}' does not exist; shipped recipes: {shipped}; or give the path of a .yaml file")
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"recipe '{ref}' is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"recipe '{ref}' is not a mapping of sections; start it with 'name: ...'")
    parent = raw.pop("extends", None)
    return raw if parent is None else _merge(_read(str(parent), (*seen, ref)), raw)


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"recipe file '{path}': is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise UsageError(
            f"recipe file '{path}': cannot be read ({error.strerror}); correct its path or rights"
        ) from error


def _check_json(value: Any, origin: str, path: str = "") -> None:
    """Raise UsageError for what YAML knows and JSON does not, as dates and sets: a plan could not be stored."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UsageError(f"{origin}: {path or 'top level'}: the key {key} is no text; quote it")
            _check_json(item, origin, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, origin, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{origin}: {path}: {value} is no number that can be stored; give a finite one")
    elif value is not None and not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise UsageError(f"{origin}: {path}: {value} is read as a YAML {kind}; quote it, or write a list or a number")


def _merge(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(base)
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _apply_override(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UsageError(f"override '{override}' is not of the form section.key=value; e.g. training.num_steps=100")
    *parents, leaf = path.split(".")
    if path.split(".")[0] not in SECTIONS:
        raise UsageError(f"override '{override}': unknown section; valid sections: {', '.join(SECTIONS)}")
    node = raw
    for key in parents:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise UsageError(f"override '{override}': '{key}' is a value, not a section; it holds {_short(child)}")
        node = child
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"override '{override}': the value is not valid YAML; quote it") from error


def _explain(error: ValidationError, section: str, model: Any) -> str:
    """One line for the first validation error: the dotted key, what is wrong, and the valid keys if it is unknown."""
    first = error.errors()[0]
    location = [part for part in first["loc"] if isinstance(part, (str, int))]
    dotted = ".".join([section, *map(str, location)])
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        keys = _valid_keys(model, location[:-1])
        return f"{dotted}: unknown key" + (f"; valid keys: {', '.join(keys)}" if keys else "")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{dotted}: {message}"
    return f"{dotted}: {_short(first['input'])} is not accepted: {message}"


def _valid_keys(model: Any, location: list[str | int]) -> list[str]:
    """Field names of the model (pydantic or dataclass) at `location` inside `model`."""
    if get_origin(model) in (Union, UnionType):
        model = next(option for option in get_args(model) if option is not NoneType)
    hints = get_type_hints(model) if isinstance(model, type) else {}
    if location and location[0] in hints:
        return _valid_keys(hints[str(location[0])], location[1:])
    fields = getattr(model, "model_fields", None) or getattr(model, "__dataclass_fields__", {})
    return list(fields)
