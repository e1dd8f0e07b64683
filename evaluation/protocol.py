"""The frozen protocol: everything two evaluations must share before their figures may be compared."""

from typing import Any

from evaluation.config import EvaluationConfig
from evaluation.learned_quality import PYIQA_NAMES, package_version
from evaluation.metrics import METRICS
from infra.errors import UsageError
from infra.recipe import Recipe, difference, digest

PROTOCOL_VERSION = 2


def build_protocol(recipe: Recipe, config: EvaluationConfig, test_set_digest: str, num_images: int) -> dict[str, Any]:
    """The protocol of an evaluation as JSON data; neither the model nor the place of the data is part of it."""
    return {
        "version": PROTOCOL_VERSION,
        "task": recipe.task,
        "scale": recipe.scale,
        "test_set": {"digest": test_set_digest, "num_images": num_images},
        "metrics": {name: metric_version(name) for name in config.metrics},
        "colour": "8-bit RGB, 0..255, results rounded and clipped, no border cropped",
        "bicubic": "a = -0.75, pixel centres aligned by area, no antialiasing, clipped to 0..255",
        "noise": "normal, by squares of 64x64 latents, CPU generators seeded with sha256(sha256(seed/key)/row/column)",
        "precision": config.precision,
        "seed": config.seed,
        "tile_size": config.tile_size,
        "tile_overlap": config.tile_overlap,
    }


def metric_version(name: str) -> str:
    """What a metric's figure depends on besides the two images; for a learned one also the package that computes it."""
    package = f" by pyiqa {package_version()}" if name in PYIQA_NAMES else ""
    return METRICS[name].version + package


def protocol_digest(protocol: dict[str, Any]) -> str:
    """sha256 that names a protocol."""
    return digest(protocol)


def require_same(first: dict[str, Any], second: dict[str, Any], what: str) -> None:
    """Raise UsageError, naming the differences, unless two protocols are the same."""
    if changes := difference(first, second):
        raise UsageError(
            f"{what} were measured under different protocols and cannot be compared ({'; '.join(changes[:4])}); "
            "evaluate both on the same test set with the same settings"
        )
