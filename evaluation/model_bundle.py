"""A model bundle in memory: what is sent to the workers, who need no access to the registry, and what names a model."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np

from resshift.restorer import Restorer

Bundle = dict[str, np.ndarray]  # the files of a model bundle by name, as bytes (uint8)

_MLFLOW_FILES = ("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt")  # they differ between equal models


def read_bundle(folder: Path) -> Bundle:
    """Load the files of a bundle into memory."""
    return {
        path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _MLFLOW_FILES
    }


def bundle_digest(bundle: Bundle) -> str:
    """sha256 that names a model: over the names and contents of its files."""
    total = hashlib.sha256()
    for name, content in sorted(bundle.items()):
        total.update(f"{name}\0{hashlib.sha256(content.tobytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def load_bundle(bundle: Bundle, device: str) -> Restorer:
    """Build the restorer of a bundle in memory. Raises ValueError if it does not fit."""
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        for name, content in bundle.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(path)
        return Restorer.load(folder, device=device)
