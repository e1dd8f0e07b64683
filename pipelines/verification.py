"""verify: is the dataset at a URL exactly what its plan and its commit records say?"""

from collections import Counter
from dataclasses import dataclass, field

from infra import storage
from infra.errors import JobError, UsageError
from infra.progress import progress
from pipelines.dataset import iter_samples, read_plan
from pipelines.shard import CommitRecord, committed_shards


@dataclass
class Findings:
    """What was checked and every fault found, one line each."""

    num_shards: int = 0
    num_samples: int = 0
    faults: list[str] = field(default_factory=list)


def verify(url: str) -> Findings:
    """Read every shard of a dataset: checksum, count, decodability of every field, unique keys, no foreign shards.

    Raises UsageError if `url` holds no dataset. Faults are collected, not raised, so that one run shows all of them.
    """
    plan = read_plan(url)
    if plan is None:
        raise UsageError(f"dataset '{url}': no dataset.json there; give the --out of make_pairs.py or make_latents.py")
    findings, records = Findings(num_shards=plan["num_shards"]), committed_shards(url)
    findings.faults += [f"shard {shard}: not finished" for shard in range(plan["num_shards"]) if shard not in records]
    findings.faults += [f"shard {shard}: not in the plan" for shard in sorted(records) if shard >= plan["num_shards"]]
    keys: Counter[str] = Counter()
    with progress("verify", total=len(records), unit="shards") as bar:
        for record in records.values():
            findings.faults += _verify_shard(url, record, keys)
            bar.advance(faults=len(findings.faults))
    findings.faults += [f"sample {key}: stands {count} times" for key, count in keys.items() if count > 1]
    planned = plan["num_samples_planned"]
    accounted = sum(record.num_samples + len(record.rejects) for record in records.values())
    if len(records) == plan["num_shards"] and accounted != planned:
        findings.faults.append(f"plan: {planned} samples, but {accounted} are stored or rejected")
    if "autoencoder" in plan["identity"] and not storage.exists(storage.join(url, "autoencoder", "autoencoder.json")):
        findings.faults.append("autoencoder: the folder with the weights that made the latents is missing")
    findings.num_samples = sum(keys.values())
    return findings


def _verify_shard(url: str, record: CommitRecord, keys: Counter[str]) -> list[str]:
    try:
        for sample in iter_samples(url, record, check=True):
            keys[sample["key"]] += 1
    except JobError as error:
        return [f"shard {record.shard}: {error}"]
    return []
