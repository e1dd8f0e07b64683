"""Where clean images come from: listed once in a stable order and digested; a dataset's plan stands on that digest.

    a folder or s3:// prefix of images    in the order of their paths
    a .txt or .parquet list of URIs       in the order of the list (pipelines.source_lists)
    .tar files of images (WebDataset)     a folder or prefix of them, shards/{00..12}.tar, a list, or one
                                          (pipelines.source_tars)

A source may hold millions of images: names stand in one Arrow array, and become objects only for the shard that a
worker gets. The digest is over names and sizes, of tars over those of the tars; who reads an image compares its size.
A list's sizes are not looked up: what changes behind its URIs is not noticed.
"""

import hashlib
from array import array
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from braceexpand import braceexpand

from infra import storage
from infra.errors import UsageError
from infra.progress import progress
from pipelines.source_lists import LIST_SUFFIXES, check_urls, read_list
from pipelines.source_tars import TarMember, index_tar

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
CHUNK = 1 << 16
TARS_AT_ONCE = 16


@dataclass(frozen=True)
class Fault:
    """Why a listed image is left out, known before it is read. `reason` is one of the words that a dataset counts."""

    reason: str
    detail: str


@dataclass(frozen=True)
class SourceImage:
    """One listed image. `name` is the same on every machine: a relative path, the line of a list, tar/member."""

    name: str
    url: str
    span: tuple[int, int] | None = None
    """Offset and size in the tar at `url`; None for a file of its own."""
    fault: Fault | None = None
    lq: "SourceImage | None" = None
    """The LQ image of the same name, where pairs exist already."""
    root: str = ""
    """What was there when the source was listed: its folder, the tar. Empty for a file that a list names by its URL."""
    size: int | None = None
    """Bytes when it was listed; None for a list, which is not looked behind."""


@dataclass(frozen=True)
class Spans:
    """Where the images of a source of tars lie: of image i, `offset[i]` and `size[i]` in `tars[tar[i]]`."""

    tars: tuple[str, ...]
    tar: np.ndarray
    offset: np.ndarray
    size: np.ndarray


@dataclass(frozen=True)
class Source:
    """A listed source; image i is `names[i]`, below `folder` unless it is a whole URL.

    Folders and tars are absolute, for workers that stand elsewhere; names and digest are the same wherever one stands.
    """

    uri: str
    digest: str
    names: pa.LargeStringArray = field(repr=False)
    folder: str = ""
    faults: Mapping[int, Fault] = field(default_factory=dict, repr=False)
    spans: Spans | None = field(default=None, repr=False)
    lq_names: pa.LargeStringArray | None = field(default=None, repr=False)
    """Of pairs that exist already, in the order of `names`; null where there is none."""
    lq_folder: str = ""
    sizes: np.ndarray | None = field(default=None, repr=False)
    """Bytes of every image when it was listed; None for a list and for tars, whose spans say it."""
    lq_sizes: np.ndarray | None = field(default=None, repr=False)

    @property
    def num_images(self) -> int:
        return len(self.names)

    def images(self, indices: np.ndarray) -> list[SourceImage]:
        """The images at these places of the listing."""
        names = self.names.take(pa.array(indices)).to_pylist()
        lq_names = [None] * len(names) if self.lq_names is None else self.lq_names.take(pa.array(indices)).to_pylist()
        return [self._image(int(i), *both) for i, *both in zip(indices, names, lq_names, strict=True)]

    def _image(self, index: int, name: str, lq_name: str | None) -> SourceImage:
        fault = self.faults.get(index)
        if self.spans is not None:
            tar, size = self.spans.tars[self.spans.tar[index]], int(self.spans.size[index])
            return SourceImage(name, tar, (int(self.spans.offset[index]), size), fault, root=tar, size=size)
        lq = None
        if lq_name is not None:
            lq_url, lq_size = below(self.lq_folder, lq_name), _at(self.lq_sizes, index)
            lq = SourceImage(lq_name, lq_url, root=self.lq_folder, size=lq_size)
        url = below(self.folder, name)
        root = "" if url == name else self.folder
        return SourceImage(name, url, None, fault, lq, root, _at(self.sizes, index))


def _at(sizes: np.ndarray | None, index: int) -> int | None:
    return None if sizes is None else int(sizes[index])


def list_source(uri: str) -> Source:
    """List the images of a source. Raises UsageError if it does not exist, holds no image, or is no source."""
    if is_tar(uri) and "{" in uri:
        try:
            urls = sorted(set(braceexpand(uri)))
        except ValueError as error:
            raise UsageError(f"source '{uri}': the braces do not match; write e.g. {{000..012}}.tar") from error
        return _tars(uri, urls)
    if not storage.exists(uri):
        raise UsageError(f"source '{uri}': does not exist; give a folder, an s3:// prefix, a list of images or tars")
    if is_list(uri):
        return _list(uri)
    if is_tar(uri):
        return _tars(uri, [uri])
    if not storage.is_s3(uri) and Path(uri).is_file():
        raise UsageError(f"source '{uri}': is one file; give its folder, or a list ({', '.join(LIST_SUFFIXES)}, .tar)")
    return _folder(uri)


def list_images(uri: str) -> Source:
    """As `list_source`, of a folder or prefix of image files and nothing else."""
    if is_list(uri) or is_tar(uri):
        raise UsageError(f"source '{uri}': is a list; images that are matched by name lie in a folder or s3:// prefix")
    listed = list_source(uri)
    if listed.spans is not None:
        raise UsageError(f"source '{uri}': holds tars; images that are matched by name are files of their own")
    return listed


def is_list(uri: str) -> bool:
    """True for what is read as a list of URIs."""
    return uri.lower().endswith(LIST_SUFFIXES)


def is_tar(uri: str) -> bool:
    """True for what is read as a tar, or several of them in braces."""
    return uri.lower().endswith(".tar")


def below(folder: str, name: str) -> str:
    """The URL of a listed name."""
    return name if "://" in name or name.startswith("/") else f"{folder.rstrip('/')}/{name}"


class _Names:
    """Gathers names into an Arrow array and into the digest; Python strings of one chunk exist at a time."""

    def __init__(self, uri: str) -> None:
        self.uri, self._digest = uri, hashlib.sha256()
        self._chunks: list[pa.Array] = []
        self._open: list[str] = []

    def add(self, name: str) -> None:
        if not name.isascii():
            self._encode(name)
        if "\0" in name:
            raise UsageError(f"source '{self.uri}': the name {name!a} holds a zero byte; is it a list, saved as UTF-8?")
        self._open.append(name)
        if len(self._open) == CHUNK:
            self._close()

    def hash(self, name: str, size: int) -> None:
        self._digest.update(self._encode(f"{name}\0{size}\n"))

    def _encode(self, text: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"source '{self.uri}': the name {text.strip()!a} is not UTF-8; rename it") from error

    def array(self) -> pa.LargeStringArray:
        self._close()
        chunked = pa.chunked_array(self._chunks, pa.large_string())
        self._chunks = []
        return chunked.combine_chunks()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def _close(self) -> None:
        self._chunks.append(pa.array(self._open, pa.large_string()))
        self._open = []


def _folder(uri: str) -> Source:
    names, sizes, tars = _Names(uri), array("q"), list[str]()
    for entry in storage.list_files(uri):
        lower = entry.name.lower()
        if lower.endswith(IMAGE_SUFFIXES):
            names.add(entry.name)
            names.hash(entry.name, entry.size)
            sizes.append(entry.size)
        elif lower.endswith(".tar"):
            tars.append(entry.url)
    images = names.array()
    if len(images) and tars:
        raise UsageError(
            f"source '{uri}': holds images and tars; keep one kind, or name the tars as {uri}/{{first..last}}.tar"
        )
    if tars:
        return _tars(uri, tars)
    if not len(images):
        raise UsageError(
            f"source '{uri}': holds no image; expected files ending in {', '.join(IMAGE_SUFFIXES)}, or in .tar"
        )
    return Source(uri, names.digest, images, storage.absolute(uri), sizes=np.frombuffer(sizes, np.int64))


def _list(uri: str) -> Source:
    names, folder = _Names(uri), uri.rsplit("/", 1)[0] if "/" in uri else "."
    for name in read_list(uri):
        names.add(name)
        names.hash(name, 0)
    images = names.array()
    if not len(images):
        raise UsageError(f"source '{uri}': names no image; write one URI per row")
    tars = pc.sum(pc.ends_with(images, ".tar", ignore_case=True)).as_py()
    if tars == len(images):
        return _tars(uri, [below(folder, name) for name in images.to_pylist()])
    if tars:
        raise UsageError(f"source '{uri}': names images and {tars} tars; make two lists of it")
    check_urls(images)
    return Source(uri, names.digest, images, storage.absolute(folder), _repeated(images))


def _repeated(names: pa.LargeStringArray) -> dict[int, Fault]:
    """A fault for every name that stood in the list before."""
    codes = names.dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)  # codes are dense, so first[code] is where it came first
    again = np.flatnonzero(first[codes] != np.arange(len(codes)))
    return {int(i): Fault("duplicate_key", f"row {i + 1} repeats row {first[codes[i]] + 1} of the list") for i in again}


def _tars(uri: str, urls: list[str]) -> Source:
    """The images inside tars. The digest is over the tars; which members they hold follows from them."""
    if len(set(urls)) < len(urls):
        raise UsageError(f"source '{uri}': names a tar twice; remove one")
    names, faults = _Names(uri), dict[int, Fault]()
    shared = _shared_folder(urls)
    spans = [array("q") for _ in range(3)]
    with ThreadPoolExecutor(TARS_AT_ONCE) as pool, progress("listing", len(urls), "tars") as bar:
        for tar, (url, (size, members)) in enumerate(zip(urls, pool.map(_index, urls), strict=True)):
            names.hash(url[shared:], size)
            for member in members:
                if member.fault:
                    faults[len(spans[0])] = Fault(*member.fault)
                names.add(f"{url[shared:]}/{member.name}")
                for column, value in zip(spans, (tar, member.offset, member.size), strict=True):
                    column.append(value)
            bar.advance()
    if not spans[0]:
        raise UsageError(f"source '{uri}': its {len(urls)} tars hold no image ({', '.join(IMAGE_SUFFIXES)})")
    columns = [np.frombuffer(column, np.int64) for column in spans]
    return Source(uri, names.digest, names.array(), "", faults, Spans(tuple(map(storage.absolute, urls)), *columns))


def _shared_folder(urls: list[str]) -> int:
    """How many characters of the URLs are the folder in which all of them lie."""
    first, last = min(urls), max(urls)  # what these two share, all share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first.rfind("/", 0, same) + 1


def _index(url: str) -> tuple[int, list[TarMember]]:
    try:
        size = storage.size(url)
        return size, list(index_tar(url, size, IMAGE_SUFFIXES))
    except FileNotFoundError as error:
        raise UsageError(f"source tar '{url}': does not exist; correct its name") from error
    except OSError as error:
        raise UsageError(f"source tar '{url}': cannot be read ({error.strerror}); mend or remove it") from error
