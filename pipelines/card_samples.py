"""A look at a dataset without reading it all: the first samples of shards spread over it, and what was drawn there."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra import storage
from infra.errors import JobError
from pipelines.dataset import Dataset, decode_sample, members_of
from pipelines.shard import CommitRecord, remedy, tar_errors, tar_url

SHARDS_SEEN = 16
BYTES_SEEN = 4 << 20  # of each of them
NOT_DRAWN = ("op", "seed", "shape", "height", "width", "left", "top", "points", "mixing")
"""Seeds, places and shapes: their distribution says nothing to a reader."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the degradation, as it was drawn: all its values, and how many samples had it."""

    name: str
    values: list[Any]
    num_samples: int

    @property
    def is_numeric(self) -> bool:
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    def histogram(self, bins: int) -> tuple[np.ndarray, np.ndarray]:
        """Counts and edges, as numpy.histogram gives them; whole numbers of a small range get a bin each."""
        numbers = np.asarray(self.values, np.float64)
        span = int(numbers.max() - numbers.min()) + 1
        if span < bins and (numbers == numbers.round()).all():
            return np.histogram(numbers, np.arange(span + 1) + numbers.min() - 0.5)
        return np.histogram(numbers, bins)

    def quantiles(self) -> tuple[float, float, float]:
        """Least, median and most."""
        numbers = np.asarray(self.values, np.float64)
        return float(numbers.min()), float(np.median(numbers)), float(numbers.max())


def glimpse(dataset: Dataset) -> list[dict[str, Any]]:
    """Decoded samples (key, hq, lq, record, and mask where there is one) of shards spread over the dataset."""
    used = [record for record in dataset.shards if record.num_samples]
    if not used:
        return []
    spread = np.unique(np.linspace(0, len(used) - 1, SHARDS_SEEN).astype(int))
    return [sample for place in spread for sample in first_samples(dataset.url, used[place])]


def parameters(samples: list[dict[str, Any]]) -> list[Parameter]:
    """What was drawn for these samples and is not the same in all of them, by name."""
    values: dict[str, list[Any]] = {}
    having: dict[str, set[str]] = {}
    for sample in samples:
        for name, value in _drawn(sample):
            values.setdefault(name, []).append(value)
            having.setdefault(name, set()).add(sample["key"])
    varied = [name for name in values if len(set(map(str, values[name]))) > 1 or len(having[name]) < len(samples)]
    return [Parameter(name, values[name], len(having[name])) for name in sorted(varied)]


def _drawn(sample: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    record = sample["record"]
    yield "horizontal_flip", record["horizontal_flip"]
    for step in record["degradation"]["steps"]:
        yield from _leaves(step, step["op"])
    if "mask" in sample:
        yield "mask.share_missing", float(np.mean(sample["mask"] > 0))
        yield from ((f"mask.{shape['shape']}", "drawn") for shape in record["degradation"].get("mask", ()))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Scalars of nested JSON with dotted names."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in NOT_DRAWN:
                yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    else:
        yield path, value


def first_samples(url: str, record: CommitRecord) -> list[dict[str, Any]]:
    """Samples that stand whole in the first bytes of a shard's tar: one at least, however large, if any is there."""
    size = min(record.bytes, BYTES_SEEN)
    while not (samples := _whole_samples(url, record, size)) and size < record.bytes:
        size = min(record.bytes, 2 * size)
    shown = members_of(("hq", "lq", "mask", "record"))
    return [
        decode_sample(url, key, {name: value for name, value in members.items() if name in shown})
        for key, members in samples.items()
    ]


def _whole_samples(url: str, record: CommitRecord, size: int) -> dict[str, dict[str, bytes]]:
    """Members, by key, of the samples that lie within the first `size` bytes."""
    location = tar_url(url, record)
    with tar_errors(url, record):
        data = storage.read_range(location, 0, size)
    if len(data) < size:
        raise JobError(f"{location}: has {len(data)} bytes, its record says {record.bytes}; {remedy(url, record)}")
    samples: dict[str, dict[str, bytes]] = {}
    whole = size == record.bytes
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if member.offset_data + member.size > size:
                    break
                key, _, name = member.name.partition(".")
                samples.setdefault(key, {})[name] = data[member.offset_data : member.offset_data + member.size]
    except tarfile.TarError as error:
        if whole:
            raise JobError(f"{location}: damaged ({error}); {remedy(url, record)}") from error
    if samples and not whole:
        samples.popitem()  # the last one may lack some of its members
    return samples
