"""Photos and statistics the distribution tests share."""

import cv2
import numpy as np
import skimage.data
from scipy.stats import ks_2samp


def crops(spec, size=256):
    """The crops the golden statistics were made on, RGB uint8; a photo that is too small is enlarged in float."""
    images = [getattr(skimage.data, name)()[y : y + size, x : x + size] for name, y, x in spec["crops"]]
    return [image if image.shape[:2] == (size, size) else _enlarged(image, size) for image in images]


def _enlarged(image, size):
    resized = cv2.resize(image.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return np.rint(resized).astype(np.uint8)


def lq_statistics(hq, lq):
    """The statistics defined in the golden file: psnr, gradient, laplacian, blockiness, chroma, mean."""
    height, width = lq.shape[:2]
    reference = cv2.resize(hq, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    image = lq.astype(np.float32) / 255
    gray = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    dx, dy = np.abs(np.diff(gray, axis=1)), np.abs(np.diff(gray, axis=0))
    return [
        10 * np.log10(1 / max(np.mean((image - reference) ** 2), 1e-10)),
        (dx.mean() + dy.mean()) / 2,
        cv2.Laplacian(gray, cv2.CV_32F).std(),
        dx[:, 7::8].mean() / dx.mean(),
        (image - gray[..., None]).std(),
        image.mean(),
    ]


def ks_distances(ours, golden):
    return [ks_2samp(ours[:, i], golden[:, i]).statistic for i in range(golden.shape[1])]
