"""NIQE (Mittal, Soundararajan and Bovik 2013, "Making a 'completely blind' image quality analyzer"): no reference.

How far the statistics of an image's blocks lie from those of pristine photos. Lower is more natural.

B blocks, P x P pixels each, F = 36 features: 18 per scale at two scales. Arithmetic is float64.
"""

from functools import lru_cache

import cv2
import numpy as np
from scipy.special import gammaln

from evaluation.niqe_model import PristineModel

BLOCK = 96  # side in pixels at the first scale; the authors' choice
NUM_SCALES = 2
WINDOW, WINDOW_SIGMA = 7, 7 / 6  # of the local mean and deviation
MIN_BLOCKS = 2  # one block has no covariance
FLAT = 1e-9  # below it a coefficient is rounding error, whose sign would be counted as texture
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # horizontal, vertical and the two diagonals
SHAPES = np.arange(0.2, 10.0005, 0.001)  # where the shape of a generalised Gaussian is looked for


def niqe(luma: np.ndarray, model: PristineModel) -> float | None:
    """NIQE of a luma image (H, W) in 0..255: eq. 10, the distance between two Gaussians of block features.

    None if fewer than two whole 96x96 blocks can be described: the image is too small, or has no texture.
    """
    features = block_features(luma)
    complete = features[~np.isnan(features).any(axis=1)]
    if len(complete) < MIN_BLOCKS:
        return None
    difference = model.mean - np.nanmean(features, axis=0)
    pooled = (model.covariance + np.cov(complete, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(pooled) @ difference))


def block_features(luma: np.ndarray) -> np.ndarray:
    """The features (B, 36) of the whole blocks of a luma image (H, W) in 0..255; NaN where a block is flat."""
    rows, columns = (side // BLOCK for side in luma.shape)
    image = luma[: rows * BLOCK, : columns * BLOCK].astype(np.float64)
    if image.size == 0:
        return np.empty((0, 36))
    per_scale = []
    for scale in range(NUM_SCALES):
        side = BLOCK >> scale
        if scale:
            image = halve(image)
        normalized = normalize(image)
        blocks = normalized.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
        per_scale.append(_scale_features(blocks))
    return np.concatenate(per_scale, axis=1)


def normalize(image: np.ndarray) -> np.ndarray:
    """Mean-subtracted, contrast-normalised coefficients (eqs. 1-3): (I - mu) / (sigma + 1), shape (H, W)."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    weights /= weights.sum()

    def local_mean(x: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(x, cv2.CV_64F, weights, weights, borderType=cv2.BORDER_REPLICATE)

    mean = local_mean(image)
    deviation = np.sqrt(np.abs(local_mean(image * image) - mean * mean))
    normalized = (image - mean) / (deviation + 1)
    return np.where(np.abs(normalized) < FLAT, 0.0, normalized)


def halve(image: np.ndarray) -> np.ndarray:
    """(H, W), even sides -> (H/2, W/2): MATLAB's `imresize(image, 0.5)`, bicubic with antialiasing, edges mirrored."""
    x = np.arange(-3, 5) / 2 - 0.25  # offsets of the eight taps from the new pixel's centre, in new pixels
    near, far = 1.5 * np.abs(x) ** 3 - 2.5 * x**2 + 1, -0.5 * np.abs(x) ** 3 + 2.5 * x**2 - 4 * np.abs(x) + 2
    weights = np.where(np.abs(x) <= 1, near, far)
    weights /= weights.sum()
    filtered = cv2.sepFilter2D(image, cv2.CV_64F, weights, weights, anchor=(3, 3), borderType=cv2.BORDER_REFLECT)
    return filtered[::2, ::2]


def _scale_features(blocks: np.ndarray) -> np.ndarray:
    """(B, P, P) normalised coefficients -> (B, 18): shape and spread of the coefficients, then four of each product."""
    shape, left, right = fit_asymmetric_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right = fit_asymmetric_gaussian(blocks * np.roll(blocks, shift, axis=(1, 2)))
        mean = (right - left) * np.exp(gammaln(2 / shape) - gammaln(1 / shape))  # eq. 8
        features += [shape, mean, left, right]
    return np.stack(features, axis=1)


def fit_asymmetric_gaussian(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moment fit of the asymmetric generalised Gaussian (eq. 7; Lasmar et al. 2009) to each of (B, P, P).

    Returns shape, left scale and right scale, (B,) each; NaN for a block without values on both sides of zero.
    """
    flat = blocks.reshape(len(blocks), -1)

    def deviation(side: np.ndarray) -> np.ndarray:
        count = side.sum(axis=1)
        total = np.where(side, flat**2, 0.0).sum(axis=1)
        return np.sqrt(np.divide(total, count, out=np.full(len(flat), np.nan), where=count > 0))

    left, right = deviation(flat < 0), deviation(flat > 0)
    ratio = left / right
    with np.errstate(invalid="ignore"):  # an entirely flat block: NaN, as the others without values on a side
        r_hat = np.abs(flat).mean(axis=1) ** 2 / np.square(flat).mean(axis=1)
    big_r_hat = r_hat * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = _shape_of(big_r_hat)
    to_scale = np.exp(0.5 * (gammaln(1 / shape) - gammaln(3 / shape)))
    return shape, left * to_scale, right * to_scale


def _shape_of(ratio: np.ndarray) -> np.ndarray:
    """The shape whose moment ratio Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)) comes closest; NaN stays NaN."""
    ratios = _moment_ratios()  # rises with the shape
    above = np.clip(np.searchsorted(ratios, ratio), 1, len(ratios) - 1)
    nearer_below = ratio - ratios[above - 1] <= ratios[above] - ratio
    return np.where(np.isnan(ratio), np.nan, SHAPES[np.where(nearer_below, above - 1, above)])


@lru_cache(maxsize=1)
def _moment_ratios() -> np.ndarray:
    return np.exp(2 * gammaln(2 / SHAPES) - gammaln(1 / SHAPES) - gammaln(3 / SHAPES))
