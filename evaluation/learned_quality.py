"""MUSIQ and CLIP-IQA: learned no-reference metrics, computed by the package pyiqa (the extra `iqa`).

pyiqa is for non-commercial use only (PolyForm Noncommercial), and fetches its weights on first use, so neither is
needed unless a recipe names one of these metrics.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from infra.errors import JobError, UsageError
from resshift.images import image_to_tensor
from resshift.perceptual import define_torchvision_operators

PACKAGE = "pyiqa"
PYIQA_NAMES: Mapping[str, str] = MappingProxyType({"musiq": "musiq", "clipiqa": "clipiqa"})  # ours: pyiqa's
REMEDY = "pip install 'resshift-foundry[iqa]' (pyiqa is for non-commercial use), or leave it out"


class LearnedMetric:
    """One of pyiqa's networks, frozen, on a device. Raises JobError if its weights cannot be had."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.device = device
        define_torchvision_operators()
        try:
            pyiqa: Any = importlib.import_module(PACKAGE)
            self.network = pyiqa.create_metric(PYIQA_NAMES[name], device=device)
        except (OSError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise JobError(
                f"evaluation.metrics: '{name}' cannot be set up by pyiqa ({reason}); its weights are fetched on first "
                "use: run this once where there is a network and bring ~/.cache/torch along, or leave it out"
            ) from error

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> float:
        """The figure of one image, uint8 (H, W, 3) RGB."""
        return float(self.network((image_to_tensor(image).to(self.device) + 1) / 2))


def require_package(names: Sequence[str]) -> None:
    """Raise UsageError if a learned metric is among `names` and pyiqa is not installed."""
    learned = [name for name in names if name in PYIQA_NAMES]
    if learned and importlib.util.find_spec(PACKAGE) is None:
        raise UsageError(f"evaluation.metrics: '{learned[0]}' needs the package pyiqa, which is missing; {REMEDY}")


def package_version() -> str:
    """Version of the installed pyiqa, part of the versions of its metrics."""
    return version(PACKAGE)
