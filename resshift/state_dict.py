"""Loading weights into a network so that nothing is missing, left over or of another shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

_SHOWN = 3


def _listed(entries: list[str]) -> str:
    rest = len(entries) - _SHOWN
    return ", ".join(entries[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def official_weights(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The weights of an official checkpoint, whichever way it was saved.

    They lie at the top or under "state_dict", and names may begin with what torch's wrappers for several GPUs and for
    compilation put before them.
    """
    weights = checkpoint["state_dict"] if isinstance(checkpoint.get("state_dict"), Mapping) else checkpoint
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in weights.items()}


def load_strictly(module: Module, weights: Mapping[str, Tensor], source: str) -> Module:
    """Give `module` (which may live on the meta device) a float32 copy of `weights`.

    Args:
        source: what the weights are, for the error message.

    Returns:
        The module itself.

    Raises:
        ValueError: a weight is missing, unexpected or of another shape; the first few are named.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected]
    misshapen = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in weights and tuple(weights[key].shape) != tuple(tensor.shape)
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(faults.values()):
        found = "; ".join(f"{len(keys)} {fault}: {_listed(keys)}" for fault, keys in faults.items() if keys)
        raise ValueError(
            f"{source} does not fit the configuration: {found}. Give the configuration it was trained with"
        )
    copies = {key: torch.as_tensor(weights[key]).to(torch.float32, copy=True) for key in expected}
    module.load_state_dict(copies, assign=True)
    return module
