"""The frozen autoencoder of a denoiser run: the one that made the latents, or the recipe's own for pairs."""

import tempfile
from pathlib import Path
from typing import Any

from infra import storage
from infra.errors import UsageError
from pipelines.autoencoder import AUTOENCODER_FOLDER, AutoencoderConfig, local_autoencoder
from pipelines.dataset import Dataset
from resshift.vqgan import VQGAN
from resshift.weights import fingerprint, load_vqgan


def frozen_autoencoder(dataset: Dataset, encoding: AutoencoderConfig) -> VQGAN | None:
    """The autoencoder a denoiser trained on `dataset` works in; None in pixel space.

    For latents it comes with the dataset. For pairs, which are encoded as they are read, it is `autoencoder.weights`.
    Raises UsageError where there is none, or another one than the recipe says.
    """
    if encoding.network is None:
        return None
    with tempfile.TemporaryDirectory(prefix="autoencoder-") as cache:
        if dataset.plan["identity"]["kind"] == "latents":
            autoencoder = _of_latents(dataset, encoding, Path(cache))
            source = f"dataset '{dataset.url}': was encoded by"
            remedy = "make the latents again with this recipe"
        else:
            autoencoder = _load(f"autoencoder.weights '{encoding.weights}'", local_autoencoder(encoding, Path(cache)))
            source = f"autoencoder.weights '{encoding.weights}': hold"
            remedy = "give an autoencoder trained with this recipe"
    if autoencoder.config != encoding.network:
        raise UsageError(f"{source} another network than autoencoder.network ({autoencoder.config}); {remedy}")
    return autoencoder.eval().requires_grad_(False)


def _of_latents(dataset: Dataset, encoding: AutoencoderConfig, cache: Path) -> VQGAN:
    folder = storage.local_folder(storage.join(dataset.url, AUTOENCODER_FOLDER), cache)
    autoencoder = _load(f"dataset '{dataset.url}': its autoencoder", folder)
    made_by = dataset.plan["identity"]["autoencoder"]
    _refuse_other(f"dataset '{dataset.url}': its autoencoder folder", fingerprint(autoencoder), made_by)
    if encoding.weights is not None:
        wanted = _load(f"autoencoder.weights '{encoding.weights}'", local_autoencoder(encoding, cache / "wanted"))
        _refuse_other(f"autoencoder.weights '{encoding.weights}'", fingerprint(wanted), made_by)
    return autoencoder


def _load(what: str, folder: Path) -> VQGAN:
    try:
        return load_vqgan(folder)
    except ValueError as error:
        raise UsageError(f"{what} cannot be loaded: {error}") from error


def _refuse_other(what: str, found: dict[str, Any], made_by: dict[str, Any]) -> None:
    different = [key for key, value in found.items() if made_by.get(key) != value]
    if different:
        key = different[0]
        raise UsageError(
            f"{what}: {key} is {found[key]!r}, but the latents were made with {made_by.get(key)!r}; "
            "make the latents again with this autoencoder"
        )
