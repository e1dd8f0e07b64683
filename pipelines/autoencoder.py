"""The recipe's `autoencoder` section: which VQGAN, and where its trained weights are."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from infra import storage
from infra.errors import UsageError
from resshift.vqgan import VQGANConfig
from resshift.weights import AUTOENCODER_JSON, AUTOENCODER_WEIGHTS

AUTOENCODER_FILES = (AUTOENCODER_JSON, AUTOENCODER_WEIGHTS)
AUTOENCODER_FOLDER = "autoencoder"
"""Below a latent dataset: the autoencoder that made its latents."""


class AutoencoderConfig(BaseModel):
    """The autoencoder whose latent space the denoiser works in."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    network: VQGANConfig | None = None
    """Architecture of the VQGAN; null works in pixel space."""
    weights: str | None = None
    """Folder or s3:// prefix with a trained autoencoder (what training/train_autoencoder.py wrote)."""
    batch_size: int = Field(default=8, ge=1)
    """Images encoded at once by one encoder."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the encoder; latents are stored as float16 either way."""
    compile: bool = False
    """Compile the encoder with torch.compile: minutes at the start, for a faster GPU afterwards."""


def local_autoencoder(config: AutoencoderConfig, cache: Path) -> Path:
    """A local folder with the recipe's trained autoencoder. Raises UsageError if the recipe names none."""
    if config.network is None:
        raise UsageError(
            "autoencoder.network: is null, this recipe works in pixel space; train on the pair shards as they are"
        )
    if not config.weights:
        raise UsageError(
            "autoencoder.weights: is not set; train one with training/train_autoencoder.py and pass "
            "autoencoder.weights=ITS_OUT"
        )
    if not storage.exists(storage.join(config.weights, AUTOENCODER_JSON)):
        raise UsageError(f"autoencoder.weights '{config.weights}': no autoencoder.json there; give the --out of "
                         "training/train_autoencoder.py")  # fmt: skip
    if not storage.is_s3(config.weights):
        return Path(storage.absolute(config.weights))
    for name in AUTOENCODER_FILES:  # beside them lie the checkpoints of their training
        storage.download(storage.join(config.weights, name), cache / name)
    return cache
