"""make_pairs: photos -> shards of HQ/LQ pairs.

A shard is made by one Ray task, start to end, and its bytes depend on the plan and its number alone.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import cv2
import ray

from infra import storage
from infra.allocator import keep_freed_memory
from infra.cluster import cluster, run_bounded
from infra.errors import JobError
from infra.progress import progress
from infra.recipe import Recipe
from pipelines.card import write_card, write_rejects
from pipelines.dataset import freeze_plan
from pipelines.estimate import Prices
from pipelines.plan import PairPlan, PlannedDataset, plan_pairs
from pipelines.probe import dry_run as estimate_pairs
from pipelines.samples import pair_samples
from pipelines.shard import (
    CommitRecord,
    Reject,
    clear_leftovers,
    committed_shards,
    make_shard,
    record_url,
    records_of_all,
)
from pipelines.source import SourceImage

Done = dict[int, CommitRecord]


def make_pairs(
    recipe: Recipe,
    source: str,
    out: str,
    workers: int | None = None,
    dry_run: bool = False,
    prices: Prices | None = None,
) -> str:
    """Synthesise the pairs of a recipe into shards below `out`; returns a one-line summary.

    With `dry_run`, nothing is stored: returns the plan, what it will take, and its cost where `prices` are known.
    Raises UsageError for a wrong recipe or source, or an `out` that holds another plan; JobError as soon as more
    samples were rejected than `shards.max_reject_rate` allows (what was made stays, and rejects.jsonl says which).
    """
    planned = plan_pairs(recipe, source, out)
    plan, document = planned.plan, planned.document
    if dry_run:
        return estimate_pairs(planned, workers, prices)
    freeze_plan(out, document)
    done = committed_shards(out)
    todo = [shard for shard in range(plan.num_shards) if shard not in done]
    _make_shards(planned, todo, done, workers)
    if _too_many_rejects(plan, done):
        write_rejects(out, [done[shard] for shard in sorted(done)])
        raise JobError(_reject_report(plan, done))
    records = records_of_all(out, done, plan.num_shards)
    clear_leftovers(out, records)
    write_card(out, document, records)
    made = sum(record.num_samples for record in records)
    return f"{made} pairs in {len(records)} shards ({len(todo)} made now, {_count_rejects(done)} rejected) -> {out}"


def _make_shards(planned: PlannedDataset, todo: list[int], done: Done, workers: int | None) -> None:
    """Make the shards of `todo` and enter their records into `done`; starts no more of them after too many rejects."""
    plan = planned.plan

    def jobs() -> Iterator[tuple[int, list[SourceImage]]]:
        for shard in todo:
            if _too_many_rejects(plan, done):
                return
            yield shard, planned.images_of(shard)

    if not todo or _too_many_rejects(plan, done):
        return
    with cluster(workers) as ray_cluster:
        plan_ref = ray.put(replace(plan, url=storage.absolute(plan.url)))
        finished = run_bounded(
            lambda job: _make_pair_shard.remote(plan_ref, *job), jobs(), at_once=ray_cluster.num_workers
        )
        already = sum(record.num_samples + len(record.rejects) for record in done.values())
        with progress("pairs", total=plan.num_samples, unit="pairs", initial=already) as bar:
            for record in finished:
                done[record.shard] = record
                bar.advance(record.num_samples + len(record.rejects), rejected=_count_rejects(done))


@ray.remote(num_cpus=1, max_retries=3)
def _make_pair_shard(plan: PairPlan, shard: int, images: list[SourceImage]) -> CommitRecord:
    cv2.setNumThreads(1)  # a task has one core
    keep_freed_memory()
    rejects: list[Reject] = []
    return make_shard(plan.url, shard, pair_samples(plan, shard, images, rejects), rejects)


def _count_rejects(done: Done) -> int:
    return sum(len(record.rejects) for record in done.values())


def _too_many_rejects(plan: PairPlan, done: Done) -> bool:
    """True once it is certain that the rate is exceeded, or that nothing can be used."""
    rejected = _count_rejects(done)
    return rejected > plan.shards.max_reject_rate * plan.num_samples or rejected == plan.num_samples


def _reject_report(plan: PairPlan, done: Done) -> str:
    reasons = Counter(reject.reason for record in done.values() for reject in record.rejects)
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    looked_at = sum(record.num_samples + len(record.rejects) for record in done.values())
    left = f"; stopped after {looked_at}, what was made is kept" if looked_at < plan.num_samples else ""
    rejected = _count_rejects(done)
    if rejected == plan.num_samples:
        why, remedy = "so nothing can be used", "mend the source"
    else:
        rate = plan.shards.max_reject_rate
        why, remedy = f"more than shards.max_reject_rate={rate} allows", "raise the rate, or mend the source"
    return (
        f"{rejected} of {plan.num_samples} samples were rejected ({counts}), {why}{left}; see "
        f"{storage.join(plan.url, 'rejects.jsonl')}, then {remedy} and give another --out; "
        f"where files were only out of reach, delete {_records(plan, done)} and run the same command again"
    )


def _records(plan: PairPlan, done: Done) -> str:
    """What is to be deleted to have all shards with rejects made again: they are never looked at twice."""
    shards = [shard for shard in sorted(done) if done[shard].rejects]
    others = f" and those of the other {len(shards) - 1} shards named there" if len(shards) > 1 else ""
    return record_url(plan.url, shards[0]) + others
