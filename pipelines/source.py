"""Where clean images come from: a folder tree, an s3:// prefix, or a text file with one URI per line.

A source is listed once, in a stable order, and digested; the plan of a dataset stands on that digest.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra import storage
from infra.errors import JobError, UsageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class SourceImage:
    """One listed image: `name` is stable across machines (relative path or the line of the list), `url` opens it."""

    name: str
    url: str


@dataclass(frozen=True)
class Source:
    """A listed source; `digest` is sha256 over names and sizes in listed order."""

    uri: str
    images: tuple[SourceImage, ...]
    digest: str


def list_source(uri: str) -> Source:
    """List the images of a source in the order of their names.

    Raises UsageError if the source does not exist or holds no image.
    """
    if not storage.exists(uri):
        raise UsageError(f"source '{uri}': does not exist; give a folder, an s3:// prefix or a .txt list of images")
    entries = _read_list(uri) if uri.endswith(".txt") else _list_folder(uri)
    digest, images = hashlib.sha256(), []
    for entry in entries:
        digest.update(f"{entry.name}\0{entry.size}\n".encode())
        images.append(SourceImage(entry.name, entry.url))
    if not images:
        raise UsageError(f"source '{uri}': holds no image; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return Source(uri, tuple(images), digest.hexdigest())


def _list_folder(uri: str) -> Iterator[storage.FileEntry]:
    if not storage.is_s3(uri) and Path(uri).is_file():
        raise UsageError(f"source '{uri}': is one file; give the folder it lies in, or a .txt list of images")
    for entry in storage.list_files(uri):
        if entry.name.lower().endswith(IMAGE_SUFFIXES):
            yield entry


def _read_list(uri: str) -> Iterator[storage.FileEntry]:
    """Lines in the order of the list; relative ones are taken from the folder of the list. Size 0: not looked up."""
    folder = uri.rsplit("/", 1)[0] if "/" in uri else "."
    seen: dict[str, int] = {}
    for number, line in enumerate(storage.read_bytes(uri).decode().splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in seen:
            raise JobError(f"source '{uri}' line {number}: '{name}' stands on line {seen[name]} already; remove one")
        seen[name] = number
        absolute = "://" in name or name.startswith("/")
        yield storage.FileEntry(name, 0, name if absolute else storage.join(folder, name))
