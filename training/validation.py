"""How good a network is on images it was never trained on: PSNR-Y, LPIPS-alex, and a picture to look at.

Every process computes a share of the images; the figures are means over all of them.
"""

import numpy as np
import torch
from torch import Tensor

from resshift.images import image_to_tensor, tensor_to_image, upscale_lq
from resshift.metrics import psnr_y
from resshift.perceptual import MIN_SIZE, lpips_metric
from resshift.swin_unet import SwinUNet
from resshift.vqgan import VQGAN
from training.autoencoder_task import AutoencoderTask
from training.denoiser_task import DenoiserTask
from training.engine import Processes
from training.figures import sum_over
from training.image_grid import image_grid
from training.loader import Sample, read_samples

GRID_ROWS = 6


class Judge:
    """Sums PSNR-Y and LPIPS-alex over images, by name; loads LPIPS once. Images under 32 pixels have PSNR-Y alone."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.lpips = lpips_metric("alex").to(processes.device)

    @torch.inference_mode()
    def look(self, image: np.ndarray, hq: np.ndarray) -> Tensor:
        """(3,) float64: PSNR-Y, LPIPS-alex, and 1 for the count. Arrays are uint8 (H, W, 3)."""
        distance = float("nan")
        if min(hq.shape[:2]) >= MIN_SIZE:
            pair = [image_to_tensor(array).to(self.processes.device) for array in (image, hq)]
            distance = float(self.lpips(*pair))
        return torch.tensor([psnr_y(image, hq), distance, 1.0], dtype=torch.float64)

    def means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Means over all processes, which must all call it with the same names."""
        figures = {}
        for name, total in sums.items():
            psnr, distance, count = sum_over(self.processes, total).tolist()
            figures[f"{name}_psnr_y"] = psnr / count
            if not np.isnan(distance):
                figures[f"{name}_lpips_alex"] = distance / count
        return figures


class DenoiserValidation:
    """Restores the held-out pairs of a task, with the same noise every time."""

    def __init__(self, task: DenoiserTask, processes: Processes) -> None:
        self.task, self.processes, self.judge = task, processes, Judge(processes)

    def __call__(self, denoiser: SwinUNet) -> tuple[dict[str, float], np.ndarray]:
        """Figures of the restored images and of what they start from, and a picture of this process's first ones.

        validation_psnr_y, validation_lpips_alex, and the same of the bicubically enlarged LQ as validation_start_*.
        """
        restorer = self.task.restorer(denoiser.to(self.processes.device))
        sums = {name: torch.zeros(3, dtype=torch.float64) for name in ("validation", "validation_start")}
        rows = []
        for number, sample in _share(self.task, ("hq", *self.task.condition_fields), self.processes):
            restored = restorer(sample["lq"], seed=number, mask=sample.get("mask"))
            start = tensor_to_image(upscale_lq(image_to_tensor(sample["lq"]), self.task.recipe.scale))
            sums["validation"] += self.judge.look(restored, sample["hq"])
            sums["validation_start"] += self.judge.look(start, sample["hq"])
            rows.append((sample["lq"], restored, sample["hq"]))
        return self.judge.means(sums), image_grid(("LQ", "prediction", "HQ"), rows[:GRID_ROWS])


class AutoencoderValidation:
    """Encodes, quantises and decodes the held-out images of a task."""

    def __init__(self, task: AutoencoderTask, processes: Processes) -> None:
        self.task, self.processes, self.judge = task, processes, Judge(processes)

    @torch.inference_mode()
    def __call__(self, vqgan: VQGAN) -> tuple[dict[str, float], np.ndarray]:
        """Figures of the reconstructions, and a picture of this process's first ones.

        validation_reconstruction_psnr_y, validation_reconstruction_lpips_alex.
        """
        vqgan.to(self.processes.device)
        sums, rows = torch.zeros(3, dtype=torch.float64), []
        for _, sample in _share(self.task, ("hq",), self.processes):
            reconstruction = tensor_to_image(vqgan(image_to_tensor(sample["hq"]).to(self.processes.device))[0])
            sums += self.judge.look(reconstruction, sample["hq"])
            rows.append((reconstruction, sample["hq"]))
        figures = self.judge.means({"validation_reconstruction": sums})
        return figures, image_grid(("reconstruction", "HQ"), rows[:GRID_ROWS])


def _share(
    task: DenoiserTask | AutoencoderTask, fields: tuple[str, ...], processes: Processes
) -> list[tuple[int, Sample]]:
    """This process's part of the held-out samples, each with its number among all of them."""
    places = task.order.held_out(task.config.validation_samples)
    numbers = range(processes.rank, len(places), processes.world_size)
    samples = read_samples(task.dataset, places[list(numbers)], fields, task.config.shard_cache_bytes)
    return list(zip(numbers, samples, strict=True))
