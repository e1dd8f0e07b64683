"""The pristine model of NIQE: mean and covariance of the features of good photos, as its authors published them.

Another model gives other figures, so the one behind the field's published figures is used. mmagic 1.2.0 (Apache-2.0)
ships it and every package index has mmagic; only this one file of 12 kB is kept.

`python -m evaluation.niqe_model` puts it into the cache, from where it works without a network.
"""

import io
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from resshift.package_archive import PackageArchive, cache_folder
from resshift.weights import write_atomically

ARCHIVE = PackageArchive(
    package="mmagic",
    version="1.2.0",
    filename="mmagic-1.2.0-py2.py3-none-any.whl",
    sha256="efa91041097c40e452dd2037b596a5633a6a512447c28a71c970c24aca04039c",
    variable="RESSHIFT_NIQE_ARCHIVE",
    holds="the pristine model of NIQE",
)
_MEMBER = "mmagic/evaluation/metrics/niqe_pris_params.npz"


@dataclass(frozen=True)
class PristineModel:
    """A multivariate Gaussian of natural image features: mean (36,), covariance (36, 36), float64."""

    mean: np.ndarray
    covariance: np.ndarray


def pristine_model_path() -> Path:
    """The cached file, fetched if it is not there. Raises RuntimeError, with a remedy, if it cannot be had."""
    path = cache_folder() / "niqe-pristine-model.npz"
    if not path.is_file():
        with zipfile.ZipFile(io.BytesIO(ARCHIVE.read())) as archive:
            write_atomically(path, archive.read(_MEMBER))
    return path


@lru_cache(maxsize=1)
def pristine_model() -> PristineModel:
    """The authors' model. Raises RuntimeError, with a remedy, if it is not cached and cannot be fetched."""
    with np.load(pristine_model_path()) as file:
        return PristineModel(file["mu_pris_param"].ravel(), file["cov_pris_param"])


if __name__ == "__main__":
    print(pristine_model_path())
