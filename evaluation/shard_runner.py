"""Spreads shards over Ray actors, each of which holds the models, and reports progress image by image."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch

from evaluation.evaluator import EvaluationJob, Evaluator
from evaluation.model_bundle import Bundle, load_bundle
from evaluation.pair_set import PairShard
from infra.cluster import check_start, cluster
from infra.errors import JobError, UsageError
from infra.progress import progress

MAX_DEATHS = 2  # of workers, for one shard, before it is taken for its fault


def run_shards(
    job: EvaluationJob, bundles: Mapping[str, Bundle], shards: Sequence[PairShard], workers: int | None
) -> None:
    """Evaluate `shards` with the models of `bundles` (by method) on Ray.

    Raises JobError if a worker dies for good; the shards that are done stay.
    """
    total = job.pairs.num_pairs
    with cluster(workers) as ray_cluster:
        num_actors = min(ray_cluster.num_workers, ray_cluster.num_gpus or ray_cluster.num_workers, len(shards))
        # Actors share the cores, and each must fit on a node.
        threads = max(1, min(ray_cluster.num_workers // num_actors, ray_cluster.cores_of_smallest_node))
        device = "cuda" if ray_cluster.num_gpus else "cpu"
        on_gpu = device == "cuda"
        make: Any = ray.remote(num_gpus=1 if on_gpu else 0, num_cpus=1 if on_gpu else threads)(EvaluatorActor)
        references = {method: ray.put(bundle) for method, bundle in bundles.items()}
        initial = total - sum(shard.num_pairs for shard in shards)
        with progress("evaluating", total=total, unit="images", initial=initial) as bar:
            for count in _counts(lambda: make.remote(job, references, device, threads), num_actors, shards):
                bar.advance(count)


@dataclass
class _Work:
    """A shard in the hands of an actor."""

    actor: Any
    shard: PairShard
    counted: int = 0


class EvaluatorActor:
    """An Evaluator in a process of its own, with the models unpacked from Ray's object store."""

    def __init__(self, job: EvaluationJob, bundles: Mapping[str, "ray.ObjectRef[Bundle]"], device: str, threads: int):
        torch.set_num_threads(threads)
        restorers = {method: load_bundle(ray.get(bundle), device) for method, bundle in bundles.items()}
        self.evaluator = Evaluator(job, restorers, device)

    def evaluate_shard(self, shard: PairShard) -> Iterator[int]:
        """See Evaluator.evaluate_shard."""
        yield from self.evaluator.evaluate_shard(shard)


def _counts(start_actor: Callable[[], Any], num_actors: int, shards: Sequence[PairShard]) -> Iterator[int]:
    """Hand each idle actor the next shard; yields the number of images that are done, as they are.

    An actor that dies is replaced and its shard begun again; what it had counted is taken back.
    """
    waiting = deque(shards)
    deaths: Counter[str] = Counter()
    running: dict[Any, _Work] = {}  # by the stream of counts that the actor sends

    def begin(actor: Any) -> None:
        if waiting:
            shard = waiting.popleft()
            stream = actor.evaluate_shard.options(num_returns="streaming").remote(shard)
            running[stream] = _Work(actor, shard)

    for _ in range(num_actors):
        begin(start_actor())
    while running:
        stream: Any = ray.wait(list(running), num_returns=1)[0][0]
        work = running[stream]
        try:
            count = int(ray.get(next(stream)))
        except StopIteration:
            del running[stream]
            begin(work.actor)
            # An actor for which no shard is left goes with the last name for it. Another one may wait for its place.
            del work, stream
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, JobError | UsageError):
                raise error.cause from error
            raise
        except ray.exceptions.RayActorError as error:
            check_start(error, "an evaluator")
            del running[stream]
            deaths[work.shard.name] += 1
            if deaths[work.shard.name] > MAX_DEATHS:
                raise JobError(
                    f"shard {work.shard.name}: its worker died {MAX_DEATHS + 1} times, likely out of memory; lower "
                    "evaluation.tile_size or --workers and run the same command again"
                ) from error
            yield -work.counted
            waiting.appendleft(work.shard)
            begin(start_actor())
        else:
            work.counted += count
            yield count
