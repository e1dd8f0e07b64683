import numpy as np
import pytest
import skimage.data


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def photo():
    """A 256x256 crop of a photo, RGB uint8."""
    return np.ascontiguousarray(skimage.data.astronaut()[:256, 128:384])
