"""Every metric against the field's reference toolkit, and what the definitions say at their edges."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.metrics import METRICS, MS_SSIM_MIN_SIZE, ms_ssim_y, psnr, psnr_y, ssim_y

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"
TOLERANCE = {"psnr": 1e-3, "psnr_y": 1e-3}  # dB; all others 1e-4
NAME_IN_FILE = {"psnr": "psnr", "psnr_y": "psnry", "ssim_y": "ssim", "ms_ssim_y": "ms_ssim"}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        rows = json.loads(str(file["rows"]))
        return [(row, file[f"hq{number}"], file[f"restored{number}"]) for number, row in enumerate(rows)]


def test_all_metrics_meet_the_reference(golden):
    from evaluation.meter import Meter

    names = ("psnr", "psnr_y", "ssim_y", "ms_ssim_y", "lpips_alex", "lpips_vgg")
    meter = Meter(names)
    for row, hq, restored in golden:
        measured = meter.measure(restored, hq)
        assert tuple(measured) == names
        for name, value in measured.items():
            expected = row[NAME_IN_FILE.get(name, name)]
            assert value == pytest.approx(expected, abs=TOLERANCE.get(name, 1e-4)), (name, row["kind"])


def test_equal_images_have_finite_perfect_figures(golden):
    _, hq, _ = golden[0]
    assert psnr(hq, hq) == pytest.approx(80.0)
    assert psnr_y(hq, hq) == pytest.approx(80.0)
    assert ssim_y(hq, hq) == pytest.approx(1.0)
    assert ms_ssim_y(hq, hq) == pytest.approx(1.0)


def test_psnr_of_a_known_error():
    hq = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(hq + 10, hq) == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    assert psnr_y(hq + 10, hq) == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)


def test_metrics_are_not_measured_where_no_window_fits(rng):
    tiny = rng.integers(0, 256, (10, 40, 3), dtype=np.uint8)
    assert ssim_y(tiny, tiny) is None
    below = rng.integers(0, 256, (MS_SSIM_MIN_SIZE - 1, 200, 3), dtype=np.uint8)
    assert ms_ssim_y(below, below) is None
    fits = rng.integers(0, 256, (MS_SSIM_MIN_SIZE, MS_SSIM_MIN_SIZE + 2, 3), dtype=np.uint8)
    assert ms_ssim_y(fits, fits) == pytest.approx(1.0)


def test_sizes_and_types_that_do_not_fit_are_refused(rng):
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="LQ size times the scale"):
        psnr(image[:16], image)
    with pytest.raises(ValueError, match="uint8"):
        ssim_y(image.astype(np.float32), image)


def test_improvement_is_positive_when_better():
    assert METRICS["psnr_y"].improvement(30.0, 29.0) > 0
    assert METRICS["lpips_alex"].improvement(0.2, 0.3) > 0
