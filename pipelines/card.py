"""The dataset card: what a person reads and looks at before training on a dataset.

Three files, written when all shards are committed: README.md (counts, sources, rejects, how the degradations are
distributed), preview.png (a contact sheet of LQ and HQ), rejects.jsonl (every input left out, and why).
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np

from infra import storage
from pipelines.dataset import Dataset, iter_shard
from pipelines.shard import CommitRecord, encode_png

PREVIEW_PAIRS = 12
PREVIEW_SIDE = 192
HISTOGRAM_SAMPLES = 2000
BARS = "▁▂▃▄▅▆▇█"


def write_card(url: str, document: dict[str, Any], records: list[CommitRecord]) -> None:
    """Write README.md, preview.png and rejects.jsonl of a finished dataset at `url`."""
    dataset = Dataset(url, document, tuple(records))
    write_rejects(url, records)
    samples = list(_first_records(dataset, HISTOGRAM_SAMPLES))
    storage.write_bytes(storage.join(url, "README.md"), _readme(dataset, samples).encode())
    sheet = _contact_sheet(dataset)
    if sheet is not None:
        storage.write_bytes(storage.join(url, "preview.png"), encode_png(sheet))


def write_rejects(url: str, records: list[CommitRecord]) -> None:
    """Write rejects.jsonl: a line for every planned sample of these shards that was left out."""
    with storage.open_write(storage.join(url, "rejects.jsonl")) as sink:
        for record in records:
            for reject in record.rejects:
                sink.write(f"{json.dumps({'shard': record.shard, **asdict(reject)})}\n".encode())


def _first_records(dataset: Dataset, most: int) -> Iterator[dict[str, Any]]:
    left = most
    for shard in range(len(dataset.shards)):
        for sample in iter_shard(dataset, shard, fields=["record"]):
            if left == 0:
                return
            left -= 1
            yield sample["record"]


def _readme(dataset: Dataset, samples: list[dict[str, Any]]) -> str:
    identity, records = dataset.plan["identity"], dataset.shards
    reasons: Counter[str] = Counter()
    for record in records:
        reasons.update(record.rejects_by_reason)
    recipe = dataset.plan["recipe"]
    rows = [
        ("kind", identity["kind"]),
        ("recipe", f"{recipe['name']} ({recipe['task']}, x{recipe['scale']})"),
        ("samples", f"{dataset.num_samples} of {dataset.plan['num_samples_planned']} planned"),
        ("shards", f"{len(records)}, {sum(record.bytes for record in records) / 1e6:.1f} MB"),
        ("source", dataset.plan["source_uri"]),
        ("rejected", ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items())) or "none"),
        ("plan", f"`{dataset.plan['plan_hash']}`"),
        ("digest", f"`{dataset.digest}`"),
    ]
    if "autoencoder" in identity:
        rows.append(("autoencoder", f"`{identity['autoencoder']['weights_sha256']}`"))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"# Dataset of {recipe['name']}\n\n| | |\n|---|---|\n{table}\n\n![LQ left, HQ right](preview.png)\n\n"
        f"## What was drawn\n\nOver the first {len(samples)} samples.\n\n{_distributions(samples)}"
    )


def _distributions(samples: list[dict[str, Any]]) -> str:
    """A table of every recorded parameter: a small histogram with its range, or counts of the choices."""
    values: dict[str, list[Any]] = {}
    for sample in samples:
        for step in sample["degradation"]["steps"]:
            for name, value in _leaves(step, step["op"]):
                values.setdefault(name, []).append(value)
    rows = []
    for name, column in sorted(values.items()):
        if name.endswith((".op", "seed")) or (len(set(map(str, column))) == 1 and len(samples) > 1):
            continue  # what is the same in every sample, and seeds, are not worth looking at
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
            numbers = np.asarray(column, dtype=np.float64)
            shown, span = _bars(numbers), f"{numbers.min():.4g} … {np.median(numbers):.4g} … {numbers.max():.4g}"
        else:
            counts = Counter(str(value) for value in column).most_common(8)
            shown, span = "", ", ".join(f"{choice} {count / len(column):.0%}" for choice, count in counts)
        rows.append(f"| {name} | {len(column)} | {shown} | {span} |")
    head = "| parameter | drawn | histogram | min … median … max, or choices |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Scalars of nested JSON with dotted names."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    else:
        yield path, value


def _bars(numbers: np.ndarray, bins: int = 16) -> str:
    counts, _ = np.histogram(numbers, bins=bins)
    top = max(int(counts.max()), 1)
    return "".join(BARS[round(count / top * (len(BARS) - 1))] for count in counts)


def _contact_sheet(dataset: Dataset) -> np.ndarray | None:
    """LQ (enlarged by repetition, so that its pixels show) beside HQ, a few pairs spread over the dataset."""
    tiles: list[np.ndarray] = []
    per_shard = -(-PREVIEW_PAIRS // max(len(dataset.shards), 1))
    for shard, record in enumerate(dataset.shards):
        wanted = set(np.linspace(0, record.num_samples - 1, per_shard).astype(int)) if record.num_samples else set()
        for index, sample in enumerate(iter_shard(dataset, shard, fields=["hq", "lq"])):
            if index in wanted and len(tiles) < PREVIEW_PAIRS:
                tiles.append(np.hstack([_thumbnail(sample["lq"], cv2.INTER_NEAREST), _thumbnail(sample["hq"])]))
        if len(tiles) == PREVIEW_PAIRS:
            break
    if not tiles:
        return None
    gap, columns = 8, min(3, len(tiles))
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = gap + index // columns * (height + gap), gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def _thumbnail(image: np.ndarray, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    return cv2.resize(image, (PREVIEW_SIDE, PREVIEW_SIDE), interpolation=interpolation)
