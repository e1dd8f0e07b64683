"""The test set: HQ/LQ pairs from a dataset of shards, or from folders: hq/ and lq/ (and mask/) below one, or any two.

What cannot be read becomes a BrokenPair with its reason: it is counted, never left out.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from degradations.paired import unmarked
from infra import storage
from infra.errors import UsageError
from infra.recipe import digest
from pipelines.dataset import Dataset, open_dataset
from pipelines.shard import CommitRecord, decode_png, read_shard
from resshift.image_files import decode_mask, decode_rgb, is_image_name


@dataclass(frozen=True)
class Pair:
    """One test image: hq uint8 (H, W, 3), lq uint8 (h, w, 3), mask bool (H, W) (true: pixel is missing) or None."""

    key: str
    group: str
    """Pairs of one group stem from one photo and are not independent."""
    hq: np.ndarray
    lq: np.ndarray
    mask: np.ndarray | None
    record: dict[str, Any]
    """How the LQ image was made; empty if nobody wrote it down."""


@dataclass(frozen=True)
class BrokenPair:
    """A test image that cannot be used, and why in one line."""

    key: str
    error: str


@dataclass(frozen=True)
class FilePair:
    """A pair of image files; a URL is None where the file is missing."""

    key: str
    hq: str | None
    lq: str | None
    mask: str | None


@dataclass(frozen=True)
class PairShard:
    """A unit of work. `source` is the committed shard of a dataset, or a list of file pairs."""

    name: str
    num_pairs: int
    source: CommitRecord | tuple[FilePair, ...]


@dataclass(frozen=True)
class PairSet:
    """A test set: its shards in order, and the digest that names exactly these images."""

    url: str
    digest: str
    shards: tuple[PairShard, ...]

    @property
    def num_pairs(self) -> int:
        return sum(shard.num_pairs for shard in self.shards)

    @property
    def images_per_shard(self) -> int:
        """How many images the largest shard holds. Rows are kept by shard, so they tell only one cut into shards."""
        return max(shard.num_pairs for shard in self.shards)


def open_pairs(
    url: str, max_images: int | None = None, images_per_shard: int = 16, lq: str | None = None, scale: int = 1
) -> PairSet:
    """Open the test set at `url`, cut to the first `max_images` pairs in key order.

    With `lq`, `url` is a folder of HQ images and `lq` one of LQ images. Files belong together that have the same path
    but for the extension; an LQ image may also be called NAMEx4 at scale 4, and where not one name is on both sides,
    NAME_HR belongs to NAME_LR4, as published test sets have it. Raises UsageError if there is neither a finished
    dataset nor a folder pair, or if it holds no pair: a folder mistyped is no test set whose images all failed.
    """
    if storage.exists(storage.join(url, "dataset.json")):
        if lq is not None:
            raise UsageError(f"lq '{lq}': data '{url}' is a dataset, which has LQ images of its own; leave --lq out")
        pairs = _from_dataset(open_dataset(url), max_images)
    else:
        folders = (url, lq, None) if lq is not None else tuple(storage.join(url, name) for name in ("hq", "lq", "mask"))
        files = [{} if folder is None else files_by_key(folder, "data") for folder in folders]
        if not files[0] and not files[1]:
            raise UsageError(_nothing_there(url, lq))
        hq, lq_files, masks = _without_markers(files, scale)
        if hq.keys().isdisjoint(lq_files):
            raise UsageError(_nothing_shared(*map(str, folders[:2]), *files[:2]))
        pairs = _from_folders(url, hq, lq_files, masks, max_images, images_per_shard)
    if pairs.num_pairs == 0:
        raise UsageError(f"data '{url}': the test set is empty; give a dataset or folder pair that holds images")
    return pairs


def files_by_key(folder: str, field: str) -> dict[str, str]:
    """URLs of the image files below a folder by their relative path without extension.

    Raises UsageError, naming `field`, for two files of one key.
    """
    found: dict[str, str] = {}
    for entry in storage.list_files(folder):
        if is_image_name(entry.name):
            key = entry.name.rpartition(".")[0]
            if key in found:
                raise UsageError(f"{field} '{folder}': two files are called '{key}'; keep one of them")
            found[key] = entry.url
    return found


def without_scale(files: Mapping[str, str], keys: Collection[str], scale: int) -> dict[str, str]:
    """`files` by key, where a name that is no key loses an ending like x4 if it is one then."""
    ending = f"x{scale}"
    renamed = {}
    for name, url in files.items():
        bare = name.removesuffix(ending)
        renamed[bare if name not in keys and bare in keys and bare not in files else name] = url
    return renamed


def _without_markers(files: Sequence[dict[str, str]], scale: int) -> list[dict[str, str]]:
    """HQ, LQ and masks by the name they share, if they share one but for what tells HQ from LQ."""
    hq, lq, masks = files
    lq = without_scale(lq, hq, scale)
    if hq.keys().isdisjoint(lq) and all(unmarked(name) != name for name in hq):
        bare = [{unmarked(name): url for name, url in side.items()} for side in (hq, lq, masks)]
        is_unique = all(len(new) == len(old) for new, old in zip(bare, files, strict=True))
        if is_unique and not bare[0].keys().isdisjoint(bare[1]):
            return bare
    return [hq, lq, masks]


def read_pairs(pairs: PairSet, shard: PairShard) -> Iterator[Pair | BrokenPair]:
    """The pairs of one shard in key order, one at a time."""
    if isinstance(shard.source, tuple):
        yield from map(_read_files, shard.source)
        return
    for number, members in enumerate(read_shard(pairs.url, shard.source)):
        if number == shard.num_pairs:
            return
        yield _decode_sample(members)


def _from_dataset(dataset: Dataset, max_images: int | None) -> PairSet:
    left = dataset.num_samples if max_images is None else max_images
    shards = []
    for record in dataset.shards:
        if (take := min(left, record.num_samples)) > 0:
            shards.append(PairShard(f"{record.shard:06d}", take, record))
            left -= take
    return PairSet(dataset.url, digest([dataset.digest, sum(shard.num_pairs for shard in shards)]), tuple(shards))


def _decode_sample(members: dict[str, Any]) -> Pair | BrokenPair:
    key = str(members["__key__"])
    try:
        record = json.loads(members["json"])
        hq, lq = decode_png(members["hq.png"]), decode_png(members["lq.png"])
        mask = decode_png(members["mask.png"]) > 0 if "mask.png" in members else None
    except KeyError as error:
        return BrokenPair(key, f"the sample has no field {error}")
    except ValueError as error:
        return BrokenPair(key, f"the sample is damaged: {error}")
    return Pair(key, str(record.get("source", key)), hq, lq, mask, record)


def _from_folders(
    url: str,
    hq: Mapping[str, str],
    lq: Mapping[str, str],
    mask: Mapping[str, str],
    max_images: int | None,
    images_per_shard: int,
) -> PairSet:
    keys = sorted(set(hq) | set(lq))[:max_images]
    files = [FilePair(key, hq.get(key), lq.get(key), mask.get(key)) for key in keys]
    chunks = [tuple(files[start : start + images_per_shard]) for start in range(0, len(files), images_per_shard)]
    shards = tuple(PairShard(f"{number:06d}", len(chunk), chunk) for number, chunk in enumerate(chunks))
    content = [[pair.key, *map(file_sha256, (pair.hq, pair.lq, pair.mask))] for pair in files]
    return PairSet(url, digest(content), shards)


def _nothing_there(url: str, lq: str | None) -> str:
    if lq is not None:
        return f"data '{url}': neither there nor in lq '{lq}' is an image; give a folder of HQ and one of LQ images"
    folders = [name for name in ("hq", "lq") if storage.exists(storage.join(url, name))]
    if folders:
        return f"data '{url}': the test set is empty, there is no image in {'/ and '.join(folders)}/; put images there"
    return (
        f"data '{url}': neither a dataset (dataset.json) nor a folder pair; give the --out of make_pairs.py, a folder "
        "with the subfolders hq/ and lq/ holding images of the same names, or a folder of HQ images and --lq"
    )


def _nothing_shared(hq: str, lq: str, hq_files: Collection[str], lq_files: Collection[str]) -> str:
    found = []
    for side, folder, files in (("data", hq, hq_files), ("lq", lq, lq_files)):
        what = f"{len(files)} image{'' if len(files) == 1 else 's'}, such as '{min(files)}'" if files else "no image"
        found.append(f"{side} '{folder}' holds {what}")
    return f"{' and '.join(found)}: no name is in both; give folders whose images are called alike"


def file_sha256(url: str | None) -> str | None:
    """sha256 of a file's content; None for no file."""
    return None if url is None else storage.sha256(url)


def _read_files(files: FilePair) -> Pair | BrokenPair:
    if files.hq is None or files.lq is None:
        return BrokenPair(files.key, f"there is no {'HQ' if files.hq is None else 'LQ'} image of this name")
    try:
        hq, lq = (_decoded(decode_rgb, url) for url in (files.hq, files.lq))
        mask = None if files.mask is None else _decoded(decode_mask, files.mask)
    except ValueError as error:
        return BrokenPair(files.key, str(error))
    return Pair(files.key, files.key, hq, lq, mask, {})


def _decoded(decode: Callable[[bytes], np.ndarray], url: str) -> np.ndarray:
    try:
        return decode(storage.read_bytes(url))
    except ValueError as error:
        raise ValueError(f"{url} {error}") from error
