"""verify: is the dataset at a URL exactly what its plan and its commit records say?"""

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from infra import storage
from infra.cluster import cluster, run_bounded
from infra.errors import JobError, UsageError
from infra.progress import progress
from infra.recipe import digest
from pipelines.autoencoder import AUTOENCODER_FILES, AUTOENCODER_FOLDER
from pipelines.dataset import iter_samples, read_plan
from pipelines.shard import TAR_NAME, CommitRecord, record_at, tar_url
from resshift.weights import fingerprint, load_vqgan

FEW_SHARDS = 16
"""So many are checked sooner than Ray has started."""


@dataclass
class Findings:
    """What was checked and every fault found, one line each."""

    num_shards: int = 0
    num_samples: int = 0
    faults: list[str] = field(default_factory=list)


def verify(url: str, workers: int | None = None) -> Findings:
    """Read every shard of a dataset: checksum, count, decodability of every field, keys; and the plan against it all.

    Memory holds one shard for every worker, whatever the size of the dataset. Raises UsageError if `url` holds no
    dataset. Faults are collected, not raised, so that one run shows all of them.
    """
    plan = read_plan(url)
    if plan is None:
        raise UsageError(f"dataset '{url}': no dataset.json there; give the --out of make_pairs.py or make_latents.py")
    findings = Findings(num_shards=plan["num_shards"])
    if digest(plan["identity"]) != plan["plan_hash"]:
        findings.faults.append("plan: dataset.json was changed, its plan_hash is not that of its identity")
    records = _read_records(url, plan["num_shards"], findings)
    with progress("verify", total=sum(record.num_samples for record in records), unit="samples") as bar:
        for shard, count, faults in _checked(url, records, workers):
            findings.num_samples += count
            findings.faults += [f"shard {shard}: {fault}" for fault in faults]
            bar.advance(count, faults=len(findings.faults))
    planned = plan.get("num_samples_planned")
    accounted = sum(record.num_samples + len(record.rejects) for record in records)
    if len(records) == plan["num_shards"] and accounted != planned:
        findings.faults.append(f"plan: {planned} samples, but {accounted} are stored or rejected")
    findings.faults += _strange_tars(url, records, plan["num_shards"])
    if len(records) == plan["num_shards"]:
        findings.faults += _missing_card(url, records)
    if "autoencoder" in plan["identity"]:
        findings.faults += _check_autoencoder(url, plan["identity"]["autoencoder"])
    return findings


def check_shard(url: str, record: CommitRecord) -> tuple[int, int, list[str]]:
    """(shard, samples that could be read, faults) of one shard."""
    keys: Counter[str] = Counter()
    faults = []
    try:
        for sample in iter_samples(url, record, check=True):
            keys[sample["key"]] += 1
    except JobError as error:
        faults.append(str(error))
    faults += [f"sample {key} stands {count} times" for key, count in keys.items() if count > 1]
    # A key holds the number of its shard: one that stands in two shards is a stranger in one of them.
    foreign = [key for key in keys if not key.startswith(f"{record.shard:06d}-")]
    faults += [f"sample {key} is of another shard: it stands twice, or the shards were mixed up" for key in foreign]
    return record.shard, sum(keys.values()), faults


def _checked(url: str, records: list[CommitRecord], workers: int | None) -> Any:
    """What `check_shard` says of each, in any order."""
    if len(records) <= FEW_SHARDS:
        yield from (check_shard(url, record) for record in records)
        return
    with cluster(workers) as ray_cluster:
        task = ray.remote(num_cpus=1, max_retries=3)(check_shard)
        url = storage.absolute(url)
        yield from run_bounded(lambda record: task.remote(url, record), records, at_once=ray_cluster.num_workers)


def _read_records(url: str, num_shards: int, findings: Findings) -> list[CommitRecord]:
    """The records of planned shards; enters what is wrong with the others into the findings."""
    records: dict[int, CommitRecord] = {}
    for entry in storage.list_files(storage.join(url, "shards"), suffix=".json"):
        try:
            record = record_at(entry.url)
        except JobError as error:
            findings.faults.append(str(error))
            continue
        records[record.shard] = record
    findings.faults += [f"shard {shard}: not finished" for shard in range(num_shards) if shard not in records]
    findings.faults += [f"shard {shard}: not in the plan" for shard in sorted(records) if shard >= num_shards]
    return [records[shard] for shard in sorted(records)]


def _strange_tars(url: str, records: list[CommitRecord], num_shards: int) -> list[str]:
    """Faults of tars that no record names, but for those of planned shards that are not finished."""
    named = {tar_url(url, record) for record in records}
    unfinished = set(range(num_shards)) - {record.shard for record in records}
    faults = []
    for entry in storage.list_files(storage.join(url, "shards"), suffix=".tar"):
        called = TAR_NAME.fullmatch(entry.name)
        is_unfinished = called is not None and int(called[1]) in unfinished
        if storage.join(url, "shards", entry.name) not in named and not is_unfinished:
            faults.append(f"shards/{entry.name}: no commit record names this tar; move it away")
    return faults


def _missing_card(url: str, records: list[CommitRecord]) -> list[str]:
    wanted = ["README.md", "rejects.jsonl"] + ["preview.png"] * any(record.num_samples for record in records)
    return [
        f"card: {name} is missing; run the command that made the dataset again"
        for name in wanted
        if not storage.exists(storage.join(url, name))
    ]


def _check_autoencoder(url: str, made_by: Any) -> list[str]:
    if not isinstance(made_by, dict):
        return ["autoencoder: dataset.json does not say which one made the latents"]
    with tempfile.TemporaryDirectory(prefix="autoencoder-") as folder:
        try:
            for name in AUTOENCODER_FILES:
                storage.download(storage.join(url, AUTOENCODER_FOLDER, name), Path(folder, name))
            found = fingerprint(load_vqgan(folder))
        except FileNotFoundError:
            return ["autoencoder: the folder with the weights that made the latents is missing"]
        except JobError as error:
            return [f"autoencoder: {error}"]
        except ValueError as error:
            return [f"autoencoder: {error}".replace(folder, storage.join(url, AUTOENCODER_FOLDER))]
    different = [key for key, value in found.items() if made_by.get(key) != value]
    return [f"autoencoder: its {key} is not that of the autoencoder that made the latents" for key in different]
