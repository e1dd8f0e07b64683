"""Outputs of other methods, restored elsewhere: folders of images that are measured beside the model.

`--other NAME=DIR`. An image belongs to the test image of its name (KEY.png; for a dataset also KEY.lq.png, the name
that an LQ image has in a shard). DIR may also be the --out of another evaluation, if its protocol is the same.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.pair_set import Pair, file_sha256, files_by_key
from evaluation.protocol import require_same
from evaluation.rows import BICUBIC, CHAMPION, MODEL
from infra import storage
from infra.errors import UsageError
from infra.recipe import digest
from resshift.image_files import decode_rgb

RESERVED = (MODEL, BICUBIC, CHAMPION, "lq", "hq")


@dataclass(frozen=True)
class OtherMethod:
    """A folder of another method's outputs: `images` holds their URLs by name without extension."""

    name: str
    url: str
    images: Mapping[str, str]
    digest: str
    """sha256 over names and contents."""

    def restored(self, pair: Pair, scale: int) -> np.ndarray:
        """The output for a test image, uint8 (H, W, 3). Raises ValueError if there is none, or it cannot be read."""
        names = (pair.key, f"{pair.key}.lq", f"{pair.key}x{scale}")
        found = [self.images[name] for name in names if name in self.images]
        if not found:
            raise ValueError(f"there is no image called '{pair.key}' in {self.url}")
        try:
            image = decode_rgb(storage.read_bytes(found[0]))
        except ValueError as error:
            raise ValueError(f"{found[0]} {error}") from error
        if image.shape != pair.hq.shape:
            raise ValueError(
                f"{found[0]} is {image.shape[1]}x{image.shape[0]} pixels, HQ {pair.hq.shape[1]}x{pair.hq.shape[0]}"
            )
        return image


def open_others(specs: Sequence[str], protocol: Mapping[str, Any]) -> dict[str, OtherMethod]:
    """The methods that `NAME=DIR` texts name, in their order.

    Raises UsageError for a text of another form, a name that is taken, a folder without images, or an evaluation under
    another protocol.
    """
    others: dict[str, OtherMethod] = {}
    for spec in specs:
        name, separator, url = spec.partition("=")
        if not separator or not url or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise UsageError(f"other '{spec}': give NAME=DIR, the name of letters, digits, '.', '_' and '-'")
        if name.lower() in RESERVED or name in others:
            raise UsageError(f"other '{spec}': the name '{name}' is taken; choose another one")
        others[name] = _open(name, storage.absolute(url), protocol)
    return others


def _open(name: str, url: str, protocol: Mapping[str, Any]) -> OtherMethod:
    folder = url
    try:
        evaluation = storage.read_json(storage.join(url, "evaluation.json"))
    except FileNotFoundError:
        pass
    else:
        require_same(evaluation["identity"]["protocol"], dict(protocol), f"other '{name}' ({url}) and this evaluation")
        folder = storage.join(url, "restored", MODEL)
    images = files_by_key(folder, f"other '{name}'")
    if not images:
        raise UsageError(f"other '{name}': there is no image in '{folder}'; give a folder of that method's outputs")
    content = [[key, file_sha256(image)] for key, image in sorted(images.items())]
    return OtherMethod(name, folder, images, digest(content))
