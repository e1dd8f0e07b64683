"""Short ways to evaluate in tests: the whole command's work, or one evaluator in this process."""

from evaluation.batch_evaluation import evaluate as evaluate_request
from evaluation.evaluation_plan import Request
from evaluation.evaluator import EvaluationJob, Evaluator
from evaluation.rows import read_rows
from infra.models import register
from infra.tracking import start_run
from tests.evaluation.conftest import tiny_restorer


def evaluate(recipe, model, data, out, workers=1, dry_run=False, **more):
    return evaluate_request(recipe, Request(str(model), str(data), str(out), **more), workers, dry_run)


def run_in_process(pairs, out, restorer, metrics=("psnr_y",), **options):
    """The rows of a test set, one shard after the other."""
    options = {
        "tile_size": 64,
        "tile_overlap": 8,
        "batch_size": 1,
        "precision": "float32",
        "save_restored": True,
        "others": {},
    } | options
    job = EvaluationJob(pairs, str(out), metrics, 4, seed=0, **options)
    evaluator = Evaluator(job, {"model": restorer}, "cpu")
    for shard in pairs.shards:
        assert sum(evaluator.evaluate_shard(shard)) == shard.num_pairs
    return read_rows(str(out), [shard.name for shard in pairs.shards])


def register_tiny(recipe, folder, seed, name="tiny"):
    """Register another version of a tiny model; returns it."""
    tiny_restorer(seed).save(folder)
    with start_run(recipe.name, "training") as run:
        return register(folder, name, run_id=run.info.run_id)
