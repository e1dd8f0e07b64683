"""A nested mapping of tensors and plain values as one safetensors file: streamed out, mapped in, no pickle.

Tensors are stored under their path ("ema/average/conv.weight"); numbers, strings, lists, booleans and None stand as
JSON in the file's metadata. Keys are strings without "/".
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import JobError

VALUES = "values"


def write_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Write `tree` to `path` and to the disk below it. Raises JobError, with the reason, when that fails."""
    tensors: dict[str, Tensor] = {}
    values = _split(tree, "", tensors)
    try:
        save_file(tensors, str(path), metadata={VALUES: json.dumps(values)})
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        raise JobError(
            f"{path}: the checkpoint cannot be written ({_reason(error)}); earlier ones are whole: make room or give "
            "another --out, and run the same command again"
        ) from error


@contextmanager
def open_tree(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open safetensors file, whose tensors are read when they are asked for, and the plain values.

    Raises JobError for a damaged file.
    """
    try:
        with safe_open(str(path), "pt") as file:
            yield file, json.loads((file.metadata() or {})[VALUES])
    except (OSError, SafetensorError) as error:
        raise JobError(
            f"{path}: the checkpoint cannot be read ({_reason(error)}); delete its folder to go on from an earlier one"
        ) from error


def read_tree(path: Path) -> dict[str, Any]:
    """What `write_tree` wrote, tensors on the CPU. Raises JobError for a damaged file."""
    with open_tree(path) as (file, tree):
        for name in file.keys():  # noqa: SIM118
            *parents, leaf = name.split("/")
            node = tree
            for parent in parents:
                node = node[parent]
            node[leaf] = file.get_tensor(name)
    return tree


def _split(tree: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Move the tensors of `tree` into `tensors` and return what is left."""
    rest: dict[str, Any] = {}
    for key, value in tree.items():
        assert isinstance(key, str), "JSON would turn other keys into strings"
        assert "/" not in key, "it separates the levels"
        if isinstance(value, Tensor):
            tensors[prefix + key] = _own_memory(value)
        elif isinstance(value, Mapping):
            rest[key] = _split(value, f"{prefix}{key}/", tensors)
        else:
            rest[key] = value
    return rest


def _own_memory(tensor: Tensor) -> Tensor:
    """On the CPU and dense; parameters under ZeRO are windows on one flat buffer, which would be written whole."""
    tensor = tensor.detach().cpu()
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone(memory_format=torch.contiguous_format)


def _reason(error: Exception) -> str:
    number = re.search(r"os error (\d+)", str(error))  # safetensors has its own error type, with the system's number
    return os.strerror(int(number[1])) if number else getattr(error, "strerror", None) or str(error)
