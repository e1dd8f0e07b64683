"""What each metric means, and the full-reference ones that need no network, as the field's reference toolkit
(IQA-PyTorch) computes them.

Shapes: restored, hq uint8 (H, W, 3) RGB of the same size. All arithmetic is float64.
Y here is the full-range BT.601 luma (0.299 R + 0.587 G + 0.114 B, 0..255), not the 16..235 one of older papers,
whose PSNR-Y reads about 1.3 dB higher: figures are comparable only within one definition, so each carries a version.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from resshift import metrics as shared
from resshift.metrics import LUMA, MSE_FLOOR

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, fine to coarse
MS_SSIM_MIN_SIZE = SSIM_WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1) - 15  # 161: the window still fits the last scale


@dataclass(frozen=True)
class MetricDefinition:
    """What a metric's figure means. `version` changes whenever the same two images could give another figure."""

    label: str
    unit: str
    higher_is_better: bool
    decimals: int
    version: str
    meaning: str

    def improvement(self, value: float, reference: float) -> float:
        """Difference with its sign turned so that positive is better."""
        return value - reference if self.higher_is_better else reference - value


METRICS: Mapping[str, MetricDefinition] = MappingProxyType(
    {
        "psnr": MetricDefinition(
            "PSNR", "dB", True, 2, "rgb-uint8-eps1e-8/1", "Pixel error over RGB. Higher is closer to the HQ image."
        ),
        "psnr_y": MetricDefinition(
            "PSNR-Y", "dB", True, 2, "bt601-full-range-eps1e-8/1", "Pixel error of the luma. Higher is closer."
        ),
        "ssim_y": MetricDefinition(
            "SSIM-Y", "", True, 4, "bt601-full-range-rounded-gauss11-valid/1", "Local structure of the luma, up to 1."
        ),
        "ms_ssim_y": MetricDefinition(
            "MS-SSIM-Y", "", True, 4, "bt601-full-range-rounded-5scales/1", "Structure over five scales, up to 1."
        ),
        "lpips_alex": MetricDefinition(
            "LPIPS-alex", "", False, 4, "lpips-0.1-alex/1", "Perceived difference (AlexNet features). Lower is better."
        ),
        "lpips_vgg": MetricDefinition(
            "LPIPS-vgg", "", False, 4, "lpips-0.1-vgg/1", "Perceived difference (VGG16 features). Lower is better."
        ),
        "niqe": MetricDefinition(
            "NIQE",
            "",
            False,
            3,
            "mittal2013-96px-bt601-full-range-rounded/1",
            "How far block statistics lie from those of pristine photos; looks at the result alone. Lower is better.",
        ),
        "musiq": MetricDefinition(
            "MUSIQ", "", True, 2, "koniq/1", "Learned quality, 0 to 100; looks at the result alone. Higher is better."
        ),
        "clipiqa": MetricDefinition(
            "CLIP-IQA", "", True, 4, "rn50/1", "Learned quality, 0 to 1; looks at the result alone. Higher is better."
        ),
    }
)


def luma(image: np.ndarray) -> np.ndarray:
    """Full-range BT.601 luma of uint8 RGB (H, W, 3): float64 (H, W) in 0..255, not rounded."""
    return image.astype(np.float64) @ LUMA


def psnr(restored: np.ndarray, hq: np.ndarray) -> float:
    """PSNR over RGB in dB: 10 log10(1 / (MSE + 1e-8)) of images in [0, 1]; equal images give 80 dB."""
    check_pair(restored, hq)
    mse = float(np.mean(np.square((restored.astype(np.float64) - hq.astype(np.float64)) / 255.0)))
    return 10.0 * math.log10(1.0 / (mse + MSE_FLOOR))


def psnr_y(restored: np.ndarray, hq: np.ndarray) -> float:
    """PSNR of the unrounded luma in dB, the same that training reports."""
    check_pair(restored, hq)
    return shared.psnr_y(restored, hq)


def ssim_y(restored: np.ndarray, hq: np.ndarray) -> float | None:
    """SSIM of the rounded luma (Wang et al. 2004, eq. 13; K = 0.01, 0.03), mean over valid 11x11 windows.

    None for images with a side under 11 pixels, where no window fits.
    """
    check_pair(restored, hq)
    if min(hq.shape[:2]) < SSIM_WINDOW:
        return None
    similarity, _ = _ssim_maps(np.rint(luma(restored)), np.rint(luma(hq)))
    return float(similarity.mean())


def ms_ssim_y(restored: np.ndarray, hq: np.ndarray) -> float | None:
    """Multi-scale SSIM of the rounded luma (Wang et al. 2003, eq. 7), five scales, 2x2 average pooling between them.

    None for images with a side under 161 pixels, where the window does not fit the coarsest scale.
    """
    check_pair(restored, hq)
    if min(hq.shape[:2]) < MS_SSIM_MIN_SIZE:
        return None
    x, y = np.rint(luma(restored)), np.rint(luma(hq))
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        similarity, contrast_structure = _ssim_maps(x, y)
        # A negative mean has no real power; the reference clips it to zero.
        product *= max(float((similarity if last else contrast_structure).mean()), 0.0) ** weight
        if not last:
            x, y = _halve(x), _halve(y)
    return product


def _ssim_maps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM and its contrast-structure part at each valid window position; x, y float64 (H, W) in 0..255."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    contrast_structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * contrast_structure, contrast_structure


def _window_mean(x: np.ndarray) -> np.ndarray:
    """Gaussian-weighted mean over 11x11 windows that lie wholly inside: (H, W) -> (H - 10, W - 10)."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    weights /= weights.sum()
    border = SSIM_WINDOW // 2
    return cv2.sepFilter2D(x, cv2.CV_64F, weights, weights)[border:-border, border:-border]


def _halve(x: np.ndarray) -> np.ndarray:
    """2x2 mean, stride 2. An odd side is padded with zeros at both ends first, as the reference does."""
    x = np.pad(x, [(side % 2, side % 2) for side in x.shape])
    height, width = (side // 2 * 2 for side in x.shape)
    x = x[:height, :width]
    return (x[0::2, 0::2] + x[0::2, 1::2] + x[1::2, 0::2] + x[1::2, 1::2]) / 4


def check_pair(restored: np.ndarray, hq: np.ndarray) -> None:
    """Raise ValueError unless both are uint8 (H, W, 3) of one size."""
    for name, image in (("restored", restored), ("hq", hq)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{name}: {image.dtype} array of shape {image.shape}; give uint8 (H, W, 3) RGB")
    if restored.shape != hq.shape:
        raise ValueError(
            f"restored is {restored.shape[1]}x{restored.shape[0]} and hq {hq.shape[1]}x{hq.shape[0]} pixels; "
            "the LQ size times the scale must be the HQ size"
        )
