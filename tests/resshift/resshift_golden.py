"""Reading the golden arrays of tests/golden."""

import json
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent.parent / "golden"


def arrays(name):
    """All arrays of one golden file as tensors; text entries as Python strings."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {k: file[k].item() if file[k].dtype.kind == "U" else torch.as_tensor(file[k]) for k in file.files}


def network(name):
    """(params, state dict, other arrays) of a golden network file."""
    entries = arrays(name)
    state_dict = {k.removeprefix("sd/"): entries.pop(k) for k in list(entries) if k.startswith("sd/")}
    return json.loads(entries.pop("config")), state_dict, entries
