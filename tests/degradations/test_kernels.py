import json
from pathlib import Path

import numpy as np
import pytest

from degradations import kernels

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "blur_kernels.npz")
SPECS = json.loads(str(GOLDEN["spec"]))


def kernel_of(spec):
    sigma_y, theta = (spec["sigma_y"], spec["theta"]) if spec["kind"].endswith("aniso") else (None, 0.0)
    if spec["kind"] == "sinc":
        return kernels.sinc(spec["size"], spec["cutoff"])
    if spec["kind"].startswith("generalized"):
        return kernels.generalized_gaussian(spec["size"], spec["sigma_x"], sigma_y, theta, beta=spec["beta"])
    if spec["kind"].startswith("plateau"):
        return kernels.plateau(spec["size"], spec["sigma_x"], sigma_y, theta, beta=spec["beta"])
    return kernels.gaussian(spec["size"], spec["sigma_x"], sigma_y, theta)


@pytest.mark.parametrize("index", range(len(SPECS)), ids=lambda i: f"{i}-{SPECS[i]['kind']}")
def test_kernels_agree_with_the_golden_arrays(index):
    np.testing.assert_allclose(kernel_of(SPECS[index]), GOLDEN[f"kernel{index}"], rtol=0, atol=1e-9)


def test_beta_one_is_the_gaussian():
    np.testing.assert_allclose(
        kernels.generalized_gaussian(15, 2.0, 1.0, 0.3, beta=1.0), kernels.gaussian(15, 2.0, 1.0, 0.3), atol=1e-15
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.gaussian(8, 1.0), "kernel size is 8; it must be odd"),
        (lambda: kernels.gaussian(7, 0.0), "sigma_x is 0.0; it must be positive"),
        (lambda: kernels.plateau(7, 1.0, beta=-1.0), "beta is -1.0"),
        (lambda: kernels.sinc(7, 4.0), r"cutoff is 4.0; it must lie in \(0, pi\]"),
        (lambda: kernels.disk(7, 0.0), "radius is 0.0"),
    ],
)
def test_impossible_parameters_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
