"""A dry run of make_pairs: the resolved plan, and from a few real samples what it will take. Nothing is stored."""

import time
from itertools import islice

import cv2
import numpy as np
import yaml

from infra.allocator import keep_freed_memory
from infra.cluster import cluster
from infra.errors import JobError
from pipelines.dataset import check_plan
from pipelines.decode import Rejected
from pipelines.estimate import Prices, Probe, bytes_in_tar, estimate
from pipelines.plan import PlannedDataset
from pipelines.samples import PairMaker, load_photo
from pipelines.shard import committed_shards

PROBED_IMAGES = 16
PROBED_VARIANTS = 4  # of each image


def dry_run(planned: PlannedDataset, workers: int | None, prices: Prices | None = None) -> str:
    """The resolved plan as YAML, a summary, and the estimate. `workers`: None for what the cluster has.

    Raises UsageError if the place of the output holds another dataset.
    """
    plan, document = planned.plan, planned.document
    done = committed_shards(plan.url) if check_plan(plan.url, document) else {}
    left = plan.num_samples - sum(record.num_samples + len(record.rejects) for record in done.values())
    if workers is None:
        with cluster() as ray_cluster:
            workers = ray_cluster.num_workers
    size, lq_size = plan.shards.hq_size, plan.shards.hq_size // plan.scale
    summary = (
        f"plan {document['plan_hash'][:12]}: {planned.source.num_images} images x {plan.shards.variants} variants "
        f"= {plan.num_samples} pairs of {size}x{size} and {lq_size}x{lq_size} in {plan.num_shards} shards, "
        f"{len(done)} of them made already -> {plan.url}"
    )
    resolved = yaml.safe_dump(document["identity"], sort_keys=False, default_flow_style=None, width=120)
    probe = probe_pairs(planned)
    lines = [resolved, summary, estimate(left, "pairs", probe, workers, prices=prices)]
    if probe.rejected > plan.shards.max_reject_rate:
        lines.append(
            f"warning: this job would fail: {probe.rejected:.0%} of the probed images are rejected, and "
            f"shards.max_reject_rate={plan.shards.max_reject_rate} allows no more; mend the source or raise it"
        )
    return "\n".join(lines)


def probe_pairs(planned: PlannedDataset) -> Probe:
    """Make a few pairs of images spread over the plan, on one core. Raises JobError if none of them can be used."""
    cv2.setNumThreads(1)  # as in a worker
    keep_freed_memory()
    plan, variants = planned.plan, planned.plan.shards.variants
    places = np.unique(np.linspace(0, planned.source.num_images - 1, PROBED_IMAGES).astype(int))
    maker = PairMaker(plan)
    load_seconds, make_seconds, sizes, rejected = [], [], list[int](), 0
    for image, place in zip(planned.source.images(planned.order[places]), places, strict=True):
        start = time.perf_counter()
        try:
            photo = load_photo(image, plan.shards.hq_size, plan.scale)
        except Rejected as reject:
            rejected, why = rejected + 1, f"{image.name}: {reject}"
            continue
        load_seconds.append(time.perf_counter() - start)
        if not sizes:  # imports, tables and caches, which a worker fills once
            maker.sample(photo, image, int(place) * variants)
        for index in islice(range(int(place) * variants, (int(place) + 1) * variants), PROBED_VARIANTS):
            start = time.perf_counter()
            sample = maker.sample(photo, image, index)
            make_seconds.append(time.perf_counter() - start)
            sizes.append(sum(bytes_in_tar(value) for name, value in sample.items() if name != "__key__"))
    if not sizes:
        raise JobError(f"probe: none of {rejected} images can be used, the last is {why}; mend the source")
    return Probe(
        samples=len(sizes),
        cpu_seconds=float(np.mean(load_seconds)) / variants + float(np.mean(make_seconds)),
        stored_bytes=float(np.mean(sizes)),
        rejected=rejected / len(places),
    )
