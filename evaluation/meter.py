"""All metrics of a pair in one call, with the networks loaded once."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from evaluation.learned_quality import PYIQA_NAMES, LearnedMetric, require_package
from evaluation.metrics import METRICS, check_pair, luma, ms_ssim_y, psnr, psnr_y, ssim_y
from evaluation.niqe import niqe
from evaluation.niqe_model import pristine_model
from infra.errors import JobError
from resshift.images import image_to_tensor
from resshift.perceptual import MIN_SIZE, lpips_metric

_DIRECT = {"psnr": psnr, "psnr_y": psnr_y, "ssim_y": ssim_y, "ms_ssim_y": ms_ssim_y}
_BACKBONES: dict[str, Literal["alex", "vgg"]] = {"lpips_alex": "alex", "lpips_vgg": "vgg"}


class Meter:
    """Measures pairs with a fixed list of metrics; holds the networks so that they are loaded once."""

    def __init__(self, names: Sequence[str], device: str | torch.device = "cpu") -> None:
        """`names` are keys of METRICS. Raises ValueError for an unknown one, UsageError or JobError (with a remedy) if
        a metric's package or weights are missing."""
        unknown = sorted(set(names) - set(METRICS))
        if unknown:
            raise ValueError(f"metric '{unknown[0]}' is unknown; valid metrics: {', '.join(METRICS)}")
        require_package(names)
        self.names = tuple(names)
        self.device = torch.device(device)
        try:
            self.networks = {
                name: lpips_metric(_BACKBONES[name]).to(self.device) for name in self.names if name in _BACKBONES
            }
            self.pristine = pristine_model() if "niqe" in self.names else None
        except RuntimeError as error:
            raise JobError(f"evaluation.metrics: {error}") from error
        self.learned = {name: LearnedMetric(name, self.device) for name in self.names if name in PYIQA_NAMES}

    def measure(self, restored: np.ndarray, hq: np.ndarray) -> dict[str, float | None]:
        """All metrics of one pair, uint8 (H, W, 3) each; None where the image is too small for a metric.

        Raises ValueError when the two sizes differ or an array is no RGB uint8 image.
        """
        check_pair(restored, hq)
        return {name: self._measure(name, restored, hq) for name in self.names}

    def _measure(self, name: str, restored: np.ndarray, hq: np.ndarray) -> float | None:
        if name in _DIRECT:
            return _DIRECT[name](restored, hq)
        if name in self.networks:
            return self._lpips(name, restored, hq)
        if name in self.learned:
            return self.learned[name](restored)
        assert self.pristine is not None, "only NIQE is left"
        return niqe(np.rint(luma(restored)), self.pristine)

    @torch.no_grad()
    def _lpips(self, name: str, restored: np.ndarray, hq: np.ndarray) -> float | None:
        if min(hq.shape[:2]) < MIN_SIZE:
            return None
        first, second = (image_to_tensor(image).to(self.device) for image in (restored, hq))
        return float(self.networks[name](first, second))
