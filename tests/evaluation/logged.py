"""Evaluations on MLflow that were not computed: rows with chosen figures, logged as a real evaluation would be."""

import numpy as np
import pandas as pd

from evaluation.config import EvaluationConfig
from evaluation.evaluation_run import log_evaluation
from evaluation.protocol import protocol_digest
from evaluation.registry import client
from evaluation.rows import BICUBIC, CHAMPION, MODEL, SCHEMA
from evaluation.summary import OWN, summarize
from infra import storage

CONFIG = EvaluationConfig(metrics=("psnr_y", "ssim_y"), bootstrap_resamples=1000)
NAME = "tiny"


def protocol(test_set: str = "a") -> dict:
    return {
        "version": 1,
        "task": "super_resolution",
        "scale": 4,
        "test_set": {"digest": test_set * 64, "num_images": 12},
        "metrics": {"psnr_y": "1", "ssim_y": "1"},
        "precision": "float32",
        "seed": 0,
        "tile_size": 512,
        "tile_overlap": 64,
    }


def make_rows(gains: dict[str, float], num_images: int = 12, failed: int = 0) -> pd.DataFrame:
    """Rows in which each method is `gains[method]` dB better than a common level, give or take 0.1 dB."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(num_images):
        level = 25 + 3 * rng.random()
        for method, gain in gains.items():
            row = {"shard": "000000", "key": f"image{number:02d}", "group": f"image{number:02d}", "method": method}
            row |= {
                "height": 64,
                "width": 64,
                "seconds": 0.01,
                "device": "cpu",
                "record": "{}",
                "status": "ok",
                "error": None,
            }
            if number < failed:
                row |= {"status": "failed", "error": "the sample is damaged"}
            else:
                value = level + gain + 0.1 * rng.standard_normal()
                row |= {"psnr_y": value, "ssim_y": value / 50}
            rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=SCHEMA.names)


def make_summary(rows: pd.DataFrame, version: str | None, champion: str | None = None, test_set: str = "a") -> dict:
    return {
        "schema_version": 2,
        "title": f"{NAME} · version {version}",
        "model": {"uri": f"models:/{NAME}/{version}", "name": NAME, "version": version, "digest": "d"},
        "champion": None if champion is None else {"uri": f"models:/{NAME}/{champion}", "version": champion},
        "others": {name: f"outputs/{name}" for name in rows["method"].unique() if name not in OWN},
        "data": "pairs",
        "out": "runs/evaluation",
        "batch_size": 1,
        "protocol": protocol(test_set),
        "protocol_digest": protocol_digest(protocol(test_set)),
        "confidence": 0.95,
        "bootstrap_resamples": 1000,
        "code_version": "0",
        "made_at": "2025-01-01 00:00 UTC",
        **summarize(rows, CONFIG),
    }


def new_version() -> str:
    """Register another version of the model; where its files are does not matter to a promotion."""
    registry = client()
    if not registry.search_registered_models(f"name='{NAME}'"):
        registry.create_registered_model(NAME)
    return str(registry.create_model_version(NAME, source="file:///nowhere").version)


def log_version(recipe, out, gain: float, champion: str | None = None, **options) -> str:
    """Register a version and log an evaluation of it that is `gain` dB better than bicubic. Returns the version."""
    test_set = options.pop("test_set", "a")
    version = new_version()
    gains = {BICUBIC: 0.0, MODEL: gain} | ({} if champion is None else {CHAMPION: 0.5})
    rows = make_rows(gains, **options)
    summary = make_summary(rows, version, champion, test_set)
    storage.write_json(storage.join(str(out), version, "summary.json"), summary)
    log_evaluation(recipe, summary, rows, "<html></html>", storage.join(str(out), version))
    return version
