"""The dataset format as its readers see it: open, iterate, digest.

URL/dataset.json    the frozen plan
URL/shards/         tars and their commit records (pipelines.shard)
URL/autoencoder/    in latent datasets: the autoencoder that made the latents
"""

import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra import storage
from infra.errors import JobError, UsageError
from infra.recipe import difference, digest
from pipelines.config import ShardsConfig
from pipelines.shard import CommitRecord, committed_shards, decode_png, read_shard

SCHEMA_VERSION = 1
PLAN_FILE = "dataset.json"
SHOWN_CHANGES = 6
_REQUIRED = {"identity": dict, "plan_hash": str, "num_shards": int}
_OPTIONAL = {"num_samples_planned": int, "source_uri": str, "recipe": dict}

_DECODERS: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    "hq.png": ("hq", decode_png),
    "lq.png": ("lq", decode_png),
    "mask.png": ("mask", decode_png),
    "hq_latent.npy": ("hq_latent", lambda data: np.load(io.BytesIO(data), allow_pickle=False)),
    "lq_latent.npy": ("lq_latent", lambda data: np.load(io.BytesIO(data), allow_pickle=False)),
    "json": ("record", json.loads),
}


@dataclass(frozen=True)
class Dataset:
    """A complete dataset: its plan (dataset.json) and the commit records of all its shards, in order."""

    url: str
    plan: dict[str, Any]
    shards: tuple[CommitRecord, ...]

    @property
    def num_samples(self) -> int:
        return sum(record.num_samples for record in self.shards)

    @property
    def shards_config(self) -> ShardsConfig:
        """How its pairs were cut from their photos: the recipe's `shards` section, defaults filled in."""
        return ShardsConfig.model_validate(self.plan["recipe"].get("shards", {}))

    @property
    def digest(self) -> str:
        """sha256 over the plan and the content of every shard: names exactly these bytes."""
        return digest({"plan": self.plan["plan_hash"], "shards": [record.sha256 for record in self.shards]})


def open_dataset(url: str) -> Dataset:
    """Open a finished dataset. Raises UsageError if there is none at `url` or some shard is not committed yet."""
    plan = read_plan(url)
    if plan is None:
        raise UsageError(f"dataset '{url}': no {PLAN_FILE} there; give the --out of make_pairs.py or make_latents.py")
    records = committed_shards(url)
    missing = [shard for shard in range(plan["num_shards"]) if shard not in records]
    if missing:
        raise UsageError(
            f"dataset '{url}': {len(missing)} of {plan['num_shards']} shards are not finished (first: {missing[0]}); "
            "run the command that makes it again"
        )
    return Dataset(url, plan, tuple(records[shard] for shard in range(plan["num_shards"])))


def iter_shard(
    dataset: Dataset, shard: int, fields: Collection[str] | None = None, check: bool = False
) -> Iterator[dict[str, Any]]:
    """Decoded samples of one shard in the order of their keys; see `iter_samples`."""
    yield from iter_samples(dataset.url, dataset.shards[shard], fields, check)


def iter_samples(
    url: str, record: CommitRecord, fields: Collection[str] | None = None, check: bool = False
) -> Iterator[dict[str, Any]]:
    """Decoded samples of the shard that `record` commits, in the order of their keys.

    Each is {"key": str, "hq": uint8 (H, W, 3), "lq": uint8 (h, w, 3), "mask": uint8 (H, W) with 255 = missing,
    "record": dict, "hq_latent": float16 (C, H/f, W/f), "lq_latent": the same}, as far as the dataset has them and
    `fields` names them.
    `check` compares the tar with its sha256 first. Raises JobError for a damaged shard or a field that is missing.
    """
    count = 0
    for members in read_shard(url, record, check):
        yield decode_sample(url, str(members.pop("__key__")), members, fields)  # type: ignore[arg-type]
        count += 1
    if count != record.num_samples:
        raise JobError(f"{url} shard {record.shard}: holds {count} samples, its record says {record.num_samples}")


def decode_sample(
    url: str, key: str, members: Mapping[str, bytes], fields: Collection[str] | None = None
) -> dict[str, Any]:
    """One sample from its members' bytes ("hq.png" -> ...); see `iter_samples` for what it holds and raises."""
    sample: dict[str, Any] = {"key": key}
    for member, data in members.items():
        if member not in _DECODERS:
            raise JobError(f"{url} sample {key}: holds '{member}', which no dataset has; make the dataset again")
        name, decode = _DECODERS[member]
        if fields is None or name in fields:
            try:
                sample[name] = decode(data)
            except (ValueError, EOFError) as error:
                raise JobError(f"{url} sample {key}: {member} is damaged ({error})") from error
    absent = sorted(set(fields or ()) - set(sample))
    if absent:
        raise JobError(f"{url} sample {key}: has no field '{absent[0]}'; make the dataset again")
    return sample


def members_of(fields: Collection[str]) -> set[str]:
    """Names of the members in which these fields are stored."""
    return {member for member, (field, _) in _DECODERS.items() if field in fields}


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {json.dumps(value)[:40]}"


def read_plan(url: str) -> dict[str, Any] | None:
    """dataset.json, or None if there is none. Raises JobError if it is damaged, UsageError if of another version."""
    place = storage.join(url, PLAN_FILE)
    try:
        plan = storage.read_json(place)
    except FileNotFoundError:
        return None
    if not isinstance(plan, dict):
        raise JobError(f"{place}: is no plan but {_kind(plan)}; restore it, or make the dataset again elsewhere")
    if plan.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"dataset '{url}': schema_version {plan.get('schema_version')} is not supported; "
            f"this version reads {SCHEMA_VERSION}"
        )
    for key, kind in {**_REQUIRED, **_OPTIONAL}.items():
        if type(plan.get(key)) is not kind and (key in plan or key in _REQUIRED):
            found = _kind(plan[key]) if key in plan else "missing"
            raise JobError(
                f"{place}: {key} is {found}, it must be {kind.__name__}; restore the file, or make the dataset again "
                "elsewhere"
            )
    return plan


def freeze_plan(url: str, plan: dict[str, Any]) -> None:
    """Write dataset.json once; a second job must bring the same plan.

    `plan["identity"]` is what the bytes depend on, and `plan_hash` its digest. Raises UsageError that lists in which
    keys an existing plan differs; JobError if the store says that there is one, and there is none.
    """
    place = storage.join(url, PLAN_FILE)
    if not storage.write_json(place, plan, if_absent=True) and not check_plan(url, plan):
        raise JobError(f"{place}: another job wrote it first, and now it is gone; run the same command again")


def check_plan(url: str, plan: dict[str, Any]) -> bool:
    """True if `url` holds this plan already, False if it holds none. Raises UsageError if it holds another one."""
    existing = read_plan(url)
    if existing is not None and existing["plan_hash"] != plan["plan_hash"]:
        changes = difference(existing["identity"], plan["identity"])
        more = f"; and {len(changes) - SHOWN_CHANGES} more" if len(changes) > SHOWN_CHANGES else ""
        raise UsageError(
            f"out '{url}': holds another dataset ({'; '.join(changes[:SHOWN_CHANGES])}{more}); choose another --out or "
            "undo the change"
        )
    return existing is not None
