"""evaluate, end to end on small models: rows, resumption, independence of the spread of work, and bad input."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from degradations import build
from degradations.words import describe_record
from evaluation.batch_evaluation import evaluate
from evaluation.evaluator import EvaluationJob, Evaluator, image_seed
from evaluation.pair_set import BrokenPair, Pair, open_pairs, read_pairs
from evaluation.promotion import promote
from evaluation.registry import EVALUATION_TAG, champion_of, client, load_evaluation, version_tags
from evaluation.rows import finished_shards, read_rows, rows_url
from infra.errors import JobError, UsageError
from infra.models import register
from infra.recipe import load_recipe
from infra.tracking import start_run
from pipelines.dataset import freeze_plan
from pipelines.shard import encode_json, encode_png, make_shard
from resshift import Restorer
from tests.evaluation.conftest import tiny_restorer


def job_of(pairs, out, metrics=("psnr_y",)):
    return EvaluationJob(pairs, str(out), metrics, 4, seed=0, tile_size=64, tile_overlap=8, save_restored=True)


def run_in_process(pairs, out, restorer):
    evaluator = Evaluator(job_of(pairs, out), {"model": restorer}, "cpu")
    for shard in pairs.shards:
        assert sum(evaluator.evaluate_shard(shard)) == shard.num_pairs
    return read_rows(str(out), [shard.name for shard in pairs.shards])


def test_results_do_not_depend_on_how_work_is_divided(folder_pairs, bundle, tmp_path):
    restorer = Restorer.load(bundle)
    few = run_in_process(open_pairs(str(folder_pairs), images_per_shard=9), tmp_path / "few", restorer)
    many = run_in_process(open_pairs(str(folder_pairs), images_per_shard=2), tmp_path / "many", restorer)
    columns = ["key", "method", "psnr_y", "height", "width"]
    pd.testing.assert_frame_equal(few[columns], many[columns])
    for path in (tmp_path / "few" / "restored" / "model").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / "restored" / "model" / path.name).read_bytes()


def test_noise_differs_between_images_and_seeds():
    assert len({image_seed(seed, key) for seed in (0, 1) for key in ("a", "b")}) == 4
    assert image_seed(3, "000001-000002") == image_seed(3, "000001-000002")


def test_end_to_end_with_registry_champion_and_promotion(
    recipe, folder_pairs, tmp_path, mlflow_store, local_ray, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    versions = []
    for seed in (0, 1):
        folder = tmp_path / f"bundle{seed}"
        tiny_restorer(seed).save(folder)
        with start_run(recipe.name, "training") as run:
            versions.append(register(folder, "tiny", run_id=run.info.run_id))
    first = evaluate(recipe, f"models:/tiny/{versions[0]}", str(folder_pairs), "out1")
    assert first["champion"] is None
    assert first["num_images"] == 9
    assert set(first["metrics"]["psnr_y"]["methods"]) == {"bicubic", "model"}
    run_id = version_tags("tiny", versions[0])[EVALUATION_TAG]
    logged = load_evaluation(run_id)
    assert logged.summary == first
    assert len(logged.rows) == 18
    figures = client().get_run(run_id).data
    assert figures.metrics["psnr_y"] == pytest.approx(first["metrics"]["psnr_y"]["methods"]["model"]["mean"])
    assert figures.tags["protocol.digest"] == first["protocol_digest"]
    assert figures.tags["model.version"] == versions[0]

    lenient = load_recipe("realsr_x4", ["promotion.gates=[{metric: psnr_y, min_improvement: -99}]",
                                        "promotion.min_images=9"])  # fmt: skip
    assert promote(lenient, "tiny", versions[0]).promoted
    assert champion_of("tiny") == versions[0]

    second = evaluate(recipe, f"models:/tiny/{versions[1]}", str(folder_pairs), "out2", workers=1)
    assert second["champion"]["version"] == versions[0]
    beside, alone = second["metrics"]["psnr_y"]["methods"]["champion"], first["metrics"]["psnr_y"]["methods"]["model"]
    assert beside["mean"] == pytest.approx(alone["mean"], abs=1e-4)
    assert promote(lenient, "tiny", versions[1]).promoted

    # Resuming: the rows of a shard that is done are kept, a missing one is made again, the run is continued.
    done = sorted(finished_shards("out2"))
    assert len(done) == 3
    kept, gone = (tmp_path / rows_url("out2", name) for name in done[:2])
    before = kept.stat().st_mtime_ns
    gone.unlink()
    again = evaluate(recipe, f"models:/tiny/{versions[1]}", str(folder_pairs), "out2", workers=1)
    assert kept.stat().st_mtime_ns == before
    assert gone.exists()
    assert again["metrics"] == second["metrics"]
    assert again["champion"]["version"] == versions[0], "the champion of the beginning stays the reference"
    runs = client().search_runs([client().get_run(run_id).info.experiment_id], "tags.kind = 'evaluation'")
    assert len(runs) == 2

    with pytest.raises(UsageError, match=r"holds another evaluation \(protocol.seed: 0 -> 1\)"):
        evaluate(load_recipe("realsr_x4", ["evaluation.metrics=[psnr_y,ssim_y]", "evaluation.seed=1"]),
                 f"models:/tiny/{versions[1]}", str(folder_pairs), "out2", workers=1)  # fmt: skip


def test_images_that_cannot_be_used_are_counted(recipe, broken_pairs, bundle, tmp_path, mlflow_store, local_ray):
    summary = evaluate(recipe, str(bundle), str(broken_pairs), str(tmp_path / "out"), workers=1)
    reasons = {item["key"]: item["error"] for item in summary["failed"]}
    assert len(reasons) == 3
    assert any("damaged or cut off" in reason for reason in reasons.values())
    assert any("there is no LQ image" in reason for reason in reasons.values())
    assert any("at scale 4 HQ must be 20x20" in reason for reason in reasons.values())
    assert summary["num_images"] == 9
    assert summary["metrics"]["psnr_y"]["num_images"] == 6
    assert "3 images could not be measured" in (tmp_path / "out" / "report.html").read_text()


def test_a_set_in_which_nothing_can_be_measured_fails(recipe, bundle, tmp_path, mlflow_store, local_ray):
    for name in ("hq", "lq"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.png").write_bytes(b"no image")
    with pytest.raises(JobError, match=r"no image of .* could be measured: .*is not an image"):
        evaluate(recipe, str(bundle), str(tmp_path / "set"), str(tmp_path / "out"))


def test_what_was_measured_survives_a_tracking_server_that_is_down(
    recipe, folder_pairs, bundle, tmp_path, mlflow_store, local_ray, monkeypatch
):
    out = str(tmp_path / "out")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(JobError, match=r"MLflow at http://127.0.0.1:9: .*; check MLFLOW_TRACKING_URI"):
        evaluate(recipe, str(bundle), str(folder_pairs), out, workers=1)
    assert len(finished_shards(out)) == 3
    assert (tmp_path / "out" / "report.html").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    evaluate(recipe, str(bundle), str(folder_pairs), out, workers=1)
    assert len(client().search_runs(["1"], "tags.kind = 'evaluation'")) == 1


def test_bad_input_is_one_clear_line(recipe, folder_pairs, bundle, tmp_path, mlflow_store):
    pairs, out = str(folder_pairs), str(tmp_path / "out")
    (tmp_path / "empty" / "hq").mkdir(parents=True)
    (tmp_path / "empty" / "lq").mkdir()
    with pytest.raises(UsageError, match=r"neither a dataset .* nor a folder pair"):
        evaluate(recipe, str(bundle), str(tmp_path / "empty"), out)
    with pytest.raises(UsageError, match="no model bundle there"):
        evaluate(recipe, str(tmp_path), pairs, out)
    with pytest.raises(UsageError, match=r"registered models at .*: none"):
        evaluate(recipe, "models:/nobody@champion", pairs, out)
    tiny_restorer(scale=2).save(tmp_path / "x2")
    with pytest.raises(UsageError, match="its scale is 2, the recipe 'realsr_x4' asks for 4"):
        evaluate(recipe, str(tmp_path / "x2"), pairs, out)
    tiny_restorer(task="deblurring").save(tmp_path / "other")
    with pytest.raises(UsageError, match="its task is deblurring"):
        evaluate(recipe, str(tmp_path / "other"), pairs, out)
    (tmp_path / "x2" / "denoiser.safetensors").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="x2"):
        evaluate(recipe, str(tmp_path / "x2"), pairs, out)
    assert not (tmp_path / "out").exists()


def test_dry_run_writes_nothing(recipe, folder_pairs, bundle, tmp_path, mlflow_store):
    plan = evaluate(recipe, str(bundle), str(folder_pairs), str(tmp_path / "out"), dry_run=True)
    assert plan["identity"]["protocol"]["test_set"]["num_images"] == 9
    assert not (tmp_path / "out").exists()


def test_test_set_is_named_by_its_content(folder_pairs, broken_pairs):
    whole, cut = open_pairs(str(folder_pairs)), open_pairs(str(folder_pairs), max_images=4)
    assert (whole.num_pairs, cut.num_pairs) == (9, 4)
    assert len({whole.digest, cut.digest, open_pairs(str(broken_pairs)).digest}) == 3
    assert whole.digest == open_pairs(str(folder_pairs), images_per_shard=2).digest


def test_dataset_shards_are_read_with_their_records(photos, tmp_path):
    url, degrade = str(tmp_path), build("realesrgan", scale=4)
    freeze_plan(url, {"schema_version": 1, "identity": {}, "plan_hash": "p", "num_shards": 2})
    hq = np.ascontiguousarray(np.asarray(Image.open(photos / "chelsea.png"))[:64, :64])
    for shard in range(2):
        samples = []
        for slot in range(4):
            pair = degrade(hq, seed=slot)
            record = {"source": f"photo{slot // 2}.png", "degradation": pair.record}
            lq = encode_png(pair.lq) if (shard, slot) != (1, 1) else b"damaged"
            samples.append({"__key__": f"{shard:06d}-{slot:06d}", "hq.png": encode_png(hq), "lq.png": lq,
                            "json": encode_json(record)})  # fmt: skip
        make_shard(url, shard, samples)
    pairs = open_pairs(url, max_images=6)
    read = [pair for shard in pairs.shards for pair in read_pairs(pairs, shard)]
    assert [shard.num_pairs for shard in pairs.shards] == [4, 2]
    assert [type(pair) for pair in read] == [Pair] * 5 + [BrokenPair]
    assert {pair.group for pair in read[:5]} == {"photo0.png", "photo1.png"}
    assert all(pair.lq.shape == (16, 16, 3) for pair in read[:5])
    assert any("JPEG quality" in step for step in describe_record(read[0].record["degradation"]))
    assert read[5] == BrokenPair("000001-000001", "the sample is damaged: not a readable PNG")
    assert open_pairs(url).digest != pairs.digest


def test_command_says_what_is_wrong_in_one_line(bundle, tmp_path):
    command = [sys.executable, "evaluation/evaluate.py", "--recipe", "realsr_x4", "--model", str(bundle)]
    wrong = subprocess.run([*command, "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")],
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: data ")
    assert wrong.stderr.count("\n") == 1


def test_restored_images_are_saved_as_restored(folder_pairs, bundle, tmp_path):
    restorer = Restorer.load(bundle)
    pairs = open_pairs(str(folder_pairs), max_images=1)
    run_in_process(pairs, tmp_path, restorer)
    pair = next(iter(read_pairs(pairs, pairs.shards[0])))
    saved = np.asarray(Image.open(tmp_path / "restored" / "model" / f"{pair.key}.png"))
    restorer.tile_size, restorer.tile_overlap = 64, 8
    np.testing.assert_array_equal(saved, restorer(pair.lq, seed=image_seed(0, pair.key)))
