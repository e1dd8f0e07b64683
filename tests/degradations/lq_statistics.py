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
    reference = cv2.resize(hq, (width, height), interpolation=cv2.INTER_AREA)
    image = lq.astype(np.float32) / 255
    gray = cv2.transform(image, np.array([[0.299, 0.587, 0.114]], dtype=np.float32))
    dx, dy = cv2.absdiff(gray[:, 1:], gray[:, :-1]), cv2.absdiff(gray[1:], gray[:-1])
    gradient = dx.mean()
    chroma = cv2.subtract(image, cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)).ravel()
    return [
        min(cv2.PSNR(lq, reference), 100.0),
        (gradient + dy.mean()) / 2,
        cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_32F))[1][0, 0],
        dx[:, 7::8].mean() / gradient,
        cv2.meanStdDev(chroma)[1][0, 0],
        image.mean(),
    ]


def ks_distances(ours, golden):
    return [ks_2samp(ours[:, i], golden[:, i]).statistic for i in range(golden.shape[1])]
