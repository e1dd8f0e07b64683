"""A saved restorer as an MLflow pyfunc model: the loader module that its MLmodel file names. Needs no MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from resshift.restorer import Restorer


class RestorerModel:
    """What MLflow wraps: `predict` on batches of images."""

    def __init__(self, restorer: Restorer) -> None:
        self.restorer = restorer

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """Restore a batch of images of one size.

        Args:
            model_input: uint8 RGB array (B, h, w, 3); for inpainting models (B, h, w, 4), the last channel being the
                mask, above 127 where the image is unknown.
            params: `seed` (default 0), the same for every image.

        Returns:
            uint8 RGB (B, h * scale, w * scale, 3)

        Raises:
            ValueError: the input is not such an array.
        """
        images = np.asarray(model_input)
        inpaints = self.restorer.denoiser.config.cond_mask
        channels = 4 if inpaints else 3
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != channels or len(images) == 0:
            raise ValueError(
                f"model_input is {images.dtype} {images.shape}; give a uint8 array (B, h, w, {channels}), B at least 1"
            )
        seed = int((params or {}).get("seed", 0))
        masks = images[..., 3] if inpaints else [None] * len(images)
        restored = [
            self.restorer(image, seed=seed, mask=mask) for image, mask in zip(images[..., :3], masks, strict=True)
        ]
        return np.stack(restored)


def _load_pyfunc(data_path: str) -> RestorerModel:
    """Entry point that MLflow calls with the folder of the saved restorer."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return RestorerModel(Restorer.load(data_path, device))
