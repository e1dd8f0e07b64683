"""The dataset card: what a person reads and looks at before training on a dataset.

Three files, written when all shards are committed: README.md (counts, sources, rejects, how the degradations are
distributed), preview.png (LQ beside HQ, and histograms of what was drawn), rejects.jsonl (every input left out, and
why).
"""

import json
import re
from collections import Counter
from dataclasses import asdict
from typing import Any

from infra import storage
from pipelines.card_figures import contact_sheet, draw_histograms, stack
from pipelines.card_samples import Parameter, glimpse, parameters
from pipelines.codec import encode_png
from pipelines.dataset import Dataset
from pipelines.shard import CommitRecord

BARS = "▁▂▃▄▅▆▇█"
MOST_CHOICES = 8


def write_card(url: str, document: dict[str, Any], records: list[CommitRecord]) -> None:
    """Write README.md, preview.png and rejects.jsonl of a finished dataset at `url`."""
    dataset = Dataset(url, document, tuple(records))
    write_rejects(url, records)
    samples = glimpse(dataset)
    drawn = parameters(samples)
    readme = _readme(dataset, len(samples), drawn)
    storage.write_bytes(storage.join(url, "README.md"), readme.encode())
    if samples:
        pages = [contact_sheet(samples), draw_histograms([one for one in drawn if one.is_numeric])]
        storage.write_bytes(storage.join(url, "preview.png"), encode_png(stack(pages)))


def write_rejects(url: str, records: list[CommitRecord]) -> None:
    """Write rejects.jsonl: a line for every planned sample of these shards that was left out."""
    with storage.open_write(storage.join(url, "rejects.jsonl")) as sink:
        for record in records:
            for reject in record.rejects:
                sink.write(f"{json.dumps({'shard': record.shard, **asdict(reject)})}\n".encode())


def _readme(dataset: Dataset, num_seen: int, drawn: list[Parameter]) -> str:
    identity, records, plan = dataset.plan["identity"], dataset.shards, dataset.plan
    recipe = plan["recipe"]
    rows = [
        ("kind", identity["kind"]),
        ("recipe", f"{_cell(str(recipe['name']))} ({recipe['task']}, x{recipe['scale']})"),
        ("samples", f"{dataset.num_samples:,} of {plan['num_samples_planned']:,} planned"),
        ("shards", f"{len(records):,}, {sum(record.bytes for record in records) / 1e6:,.1f} MB"),
        ("source", _source(dataset)),
    ]
    if "degradation" in identity:
        rows.append(("degradation", identity["degradation"]["name"]))
    if "autoencoder" in identity:
        rows.append(("autoencoder", f"`{identity['autoencoder']['weights_sha256']}`"))
    rows += [("plan", f"`{plan['plan_hash']}`"), ("digest", f"`{dataset.digest}`")]
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    return (
        f"# Dataset of {_cell(str(recipe['name']))}\n\n| | |\n|---|---|\n{table}\n"
        "![Pairs, LQ left and HQ right, and histograms of the parameters](preview.png)\n\n"
        f"## What was left out\n\n{_rejects(dataset)}\n"
        f"## What was drawn\n\n{_drawn(num_seen, drawn)}"
    )


def _cell(text: str) -> str:
    """Text that a cell of a table can hold: nothing ends the line or the cell."""
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return shown.replace("|", "\\|")


def _code(text: str) -> str:
    """A name as it is, in a cell of a table; in more backticks than it holds in a row itself."""
    shown, longest = _cell(text), max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _source(dataset: Dataset) -> str:
    identity, uri = dataset.plan["identity"], dataset.plan["source_uri"]
    if "source" not in identity:
        return _code(uri)
    variants = identity["shards"]["variants"]
    lq = dataset.plan["recipe"].get("degradation", {}).get("lq_dir")
    text = _code(uri) + (f" with LQ from {_code(lq)}" if lq else "")
    each = f"{variants} variants" if variants > 1 else "one sample"
    return f"{text}: {identity['source']['num_images']:,} images, {each} each"


def _rejects(dataset: Dataset) -> str:
    reasons, images = Counter[str](), dict[str, set[str]]()
    for record in dataset.shards:
        for reject in record.rejects:
            reasons[reject.reason] += 1
            images.setdefault(reject.reason, set()).add(reject.uri)
    if not reasons:
        return "Nothing.\n"
    planned = dataset.plan["num_samples_planned"]
    rows = [
        f"| {reason} | {len(images[reason]):,} | {count:,} | {count / planned:.2%} | {_code(min(images[reason]))} |\n"
        for reason, count in reasons.most_common()
    ]
    head = "| reason | images | samples | of all | for example |\n|---|---|---|---|---|\n"
    return f"{head}{''.join(rows)}\nAll of them: [rejects.jsonl](rejects.jsonl).\n"


def _drawn(num_seen: int, drawn: list[Parameter]) -> str:
    """A table of every recorded parameter: a small histogram with its range, or counts of the choices."""
    if not drawn:
        return f"Nothing that differs between the {num_seen:,} samples looked at, which are spread over the dataset.\n"
    rows = []
    for one in drawn:
        if one.is_numeric:
            low, middle, high = one.quantiles()
            counts = one.histogram(bins=16)[0]
            shown = "".join(BARS[round(count / max(counts.max(), 1) * (len(BARS) - 1))] for count in counts)
            span = f"{low:.4g} … {middle:.4g} … {high:.4g}"
        else:
            choices = Counter(map(str, one.values)).most_common(MOST_CHOICES)
            shown, span = "", ", ".join(f"{choice} {count / len(one.values):.0%}" for choice, count in choices)
        rows.append(f"| {one.name} | {one.num_samples / num_seen:.0%} | {shown} | {span} |\n")
    head = "| parameter | of the samples | histogram | least … median … most, or choices |\n|---|---|---|---|\n"
    return f"Over {num_seen:,} samples spread over the dataset.\n\n{head}{''.join(rows)}"
