"""The stage that needs the accelerator: batches of images in, raw latents out. Nothing here reads, decodes or writes.

B batch, H and W sides of HQ, f downscale of the autoencoder, C channels of its latents.
"""

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import ray
import torch
from torch import Tensor

from infra import storage
from infra.errors import JobError
from pipelines.autoencoder import AUTOENCODER_FILES, AutoencoderConfig
from resshift.images import upscale_lq
from resshift.precision import make_repeatable
from resshift.weights import load_vqgan

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

LATENT_TOLERANCE = {"float32": 2e-3, "float16": 2e-2, "bfloat16": 1.5e-1}
"""Largest difference of a sample's latents between two batches or two machines, of latents of unit scale. What a
batch changes is the order of sums alone: for float32 it is lost in the rounding of the stored float16."""


QUESTIONS = "questions"
"""Ray's concurrency group of what is answered at once, even while a batch is being encoded."""


class Encoder:
    """One autoencoder on one device: a GPU if Ray gave this actor one, a single CPU core otherwise."""

    def __init__(self, autoencoder_url: str, config: AutoencoderConfig) -> None:
        """`autoencoder_url`: the folder or s3:// prefix that every node can read, not the driver's own copy."""
        self.device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self.dtype = AUTOCAST[config.precision]
        torch.set_num_threads(1)  # sums in another order for another number of threads would be other bytes
        make_repeatable()
        # Tensor cores want channels_last; on a CPU it makes GroupNorm many times slower.
        self.layout = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        with tempfile.TemporaryDirectory(prefix="autoencoder-") as cache:
            for name in AUTOENCODER_FILES:
                storage.download(storage.join(autoencoder_url, name), Path(cache, name))
            autoencoder = load_vqgan(cache, self.device)
        autoencoder.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.network = torch.compile(autoencoder.encode, dynamic=False) if config.compile else autoencoder.encode
        self.precision = config.precision
        self.is_warm, self.warming = False, threading.Lock()
        self.clock = _BusyClock()

    def encode(self, hq: np.ndarray, lq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 hq (B, H, W, 3), lq (B, h, w, 3) -> float16 latents of HQ and of the enlarged LQ, (B, C, H/f, W/f)."""
        with self.clock:
            return self._encode(hq, 1), self._encode(lq, hq.shape[1] // lq.shape[1])

    @ray.method(concurrency_group=QUESTIONS)
    def busy_share(self) -> float:
        """Share of the time since the first batch in which this encoder was computing, between 0 and 1."""
        return self.clock.share()

    @torch.inference_mode()
    def _encode(self, images: np.ndarray, scale: int) -> np.ndarray:
        x = upscale_lq(_to_tensor(images, self.device), scale).to(memory_format=self.layout)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            latents = self._run(x)
        stored: np.ndarray = latents.to(torch.float16).cpu().numpy()
        if not np.isfinite(stored).all():
            raise JobError(
                f"autoencoder.precision: {self.precision} overflows, latents of a batch are not finite; give bfloat16 "
                "or float32 and another --out (if it is float32, the autoencoder itself is spoilt)"
            )
        return stored

    def _run(self, x: Tensor) -> Tensor:
        if self.is_warm:
            return self.network(x)
        with self.warming:  # concurrent first calls would each compile
            latents = self.network(x)
            self.is_warm = True
        return latents


class _BusyClock:
    """Adds up the time in which at least one thread was inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside, self._busy, self._entered = 0, 0.0, 0.0
        self._first: float | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._entered = time.monotonic()
                self._first = self._entered if self._first is None else self._first
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._busy += time.monotonic() - self._entered

    def share(self) -> float:
        return self._busy / (time.monotonic() - self._first) if self._first is not None else 0.0


def _to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1], as resshift.images does it; bytes travel, not floats."""
    pixels = torch.from_numpy(images.copy()).to(device)  # what comes out of Ray's store cannot be written to
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
