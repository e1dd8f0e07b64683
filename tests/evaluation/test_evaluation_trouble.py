"""What can be wrong with an evaluation is one clear line, and what was already evaluated is kept."""

import importlib.util
import subprocess
import sys
import threading

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from evaluation.pair_set import PairShard, open_pairs
from evaluation.registry import client
from evaluation.rows import finished_shards
from evaluation.shard_runner import _counts
from infra.errors import JobError, UsageError
from infra.recipe import load_recipe
from infra.server_process import free_port
from pipelines.dataset import freeze_plan
from pipelines.shard import encode_json, encode_png, make_shard
from resshift import Restorer
from tests.evaluation.conftest import tiny_restorer
from tests.evaluation.evaluating import evaluate, run_in_process


def test_images_that_cannot_be_used_are_counted(recipe, broken_pairs, bundle, tmp_path, mlflow_store, local_ray):
    summary = evaluate(recipe, bundle, broken_pairs, tmp_path / "out")
    reasons = {item["key"]: item["error"] for item in summary["failed"]}
    assert len(reasons) == 3
    assert any("damaged or cut off" in reason for reason in reasons.values())
    assert any("there is no LQ image" in reason for reason in reasons.values())
    assert any("at scale 4 HQ must be 20x20" in reason for reason in reasons.values())
    assert summary["num_images"] == 9
    assert summary["metrics"]["psnr_y"]["num_images"] == 6
    assert "3 images could not be measured" in (tmp_path / "out" / "report.html").read_text()
    run = client().search_runs(["1"], "tags.kind = 'evaluation'")[0]
    assert run.data.metrics["num_failed_images"] == 3


def test_a_broken_image_leaves_its_batch_alone(recipe, broken_pairs, bundle, tmp_path, mlflow_store, local_ray):
    batches = load_recipe("realsr_x4", ["evaluation.metrics=[psnr_y]", "evaluation.batch_size=4"])
    summary = evaluate(batches, bundle, broken_pairs, tmp_path / "out")
    assert len(summary["failed"]) == 3
    assert summary["metrics"]["psnr_y"]["num_images"] == 6


@pytest.mark.slow
def test_a_damaged_shard_stops_the_evaluation_and_what_was_done_stays(
    recipe, photos, bundle, tmp_path, mlflow_store, local_ray
):
    data, out = str(tmp_path / "data"), tmp_path / "out"
    freeze_plan(data, {"schema_version": 1, "identity": {}, "plan_hash": "p", "num_shards": 2})
    hq = np.ascontiguousarray(np.asarray(Image.open(photos / "chelsea.png"))[:64, :64])
    for shard in range(2):
        members = {"hq.png": encode_png(hq), "lq.png": encode_png(hq[::4, ::4]), "json": encode_json({"source": "cat"})}
        make_shard(data, shard, [{"__key__": f"{shard:06d}-{slot:06d}", **members} for slot in range(3)])
    second = tmp_path / "data" / "shards" / "000001.tar"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(JobError, match=r"shard 1|000001"):
        evaluate(recipe, bundle, data, out)
    assert finished_shards(str(out)) == {"000000"}
    second.write_bytes(whole)
    assert evaluate(recipe, bundle, data, out)["metrics"]["psnr_y"]["num_images"] == 6


def test_a_worker_that_cannot_start_is_not_started_again(folder_pairs, local_ray):
    """As on a node whose torch sees none of the GPUs that Ray counts there."""

    @ray.remote(num_cpus=0)
    class Unable:
        def __init__(self):
            raise RuntimeError("Found no NVIDIA driver on your system.")

        def evaluate_shard(self, shard):
            yield shard.num_pairs

    shards = open_pairs(str(folder_pairs)).shards
    with pytest.raises(JobError, match=r"an evaluator cannot start \(RuntimeError: Found no NVIDIA driver.*mend that"):
        list(_counts(Unable.remote, 1, shards))


def test_an_actor_without_a_shard_makes_room_for_one_that_waits(folder_pairs, local_ray):
    """As when a GPU of two is held by another job: the second actor gets its place only when the first is gone."""

    @ray.remote(num_cpus=ray.cluster_resources()["CPU"])
    class Greedy:
        def evaluate_shard(self, shard):
            yield shard.num_pairs

    shards = [PairShard(str(number), 1, ()) for number in range(3)]
    counts = []
    counting = threading.Thread(target=lambda: counts.extend(_counts(Greedy.remote, 2, shards)), daemon=True)
    counting.start()
    counting.join(60)
    assert counts == [1, 1, 1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("Unable to allocate")])
def test_too_little_memory_is_one_clear_line(folder_pairs, bundle, tmp_path, error):
    class Full(Restorer):
        def restore_images(self, images, seeds, masks):
            raise error

    restorer = tiny_restorer()
    restorer.__class__ = Full
    with pytest.raises(JobError, match=r"lower evaluation.batch_size \(2\) or evaluation.tile_size \(64\)"):
        run_in_process(open_pairs(str(folder_pairs)), tmp_path, restorer, batch_size=2)


def test_a_set_in_which_nothing_can_be_measured_fails(recipe, bundle, tmp_path, mlflow_store, local_ray):
    for name in ("hq", "lq"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.png").write_bytes(b"no image")
    with pytest.raises(JobError, match=r"no image of .* could be measured: .*is not an image"):
        evaluate(recipe, bundle, tmp_path / "set", tmp_path / "out")


@pytest.mark.slow
def test_images_too_small_for_the_ranking_metric_are_said_to_be(bundle, tmp_path, mlflow_store, local_ray):
    for name, side in (("hq", 16), ("lq", 4)):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (side, side), "teal").save(tmp_path / "set" / name / "a.png")
    recipe = load_recipe("realsr_x4", ["evaluation.metrics=[psnr_y,lpips_alex]"])
    with pytest.raises(JobError, match="LPIPS-alex has no value for any of them, are they too small for it"):
        evaluate(recipe, bundle, tmp_path / "set", tmp_path / "out")


def test_what_was_measured_survives_a_tracking_server_that_is_down(
    recipe, folder_pairs, bundle, tmp_path, mlflow_store, local_ray, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(JobError, match=r"MLflow at http://127.0.0.1:\d+: .*; check MLFLOW_TRACKING_URI") as caught:
        evaluate(recipe, bundle, folder_pairs, out)
    assert "\n" not in str(caught.value)
    assert len(finished_shards(str(out))) == 3
    assert (out / "report.html").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    evaluate(recipe, bundle, folder_pairs, out)
    assert len(client().search_runs(["1"], "tags.kind = 'evaluation'")) == 1


def test_a_registered_model_on_a_server_that_is_down_is_one_clear_line(recipe, folder_pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    for uri in ("models:/tiny@champion", "models:/tiny/3", "runs:/0123456789abcdef0123456789abcdef/model"):
        with pytest.raises((JobError, UsageError), match=r"http://127.0.0.1:\d+") as caught:
            evaluate(recipe, uri, folder_pairs, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_clear_line(recipe, folder_pairs, bundle, tmp_path, mlflow_store):
    out = tmp_path / "out"
    (tmp_path / "empty" / "hq").mkdir(parents=True)
    (tmp_path / "empty" / "lq").mkdir()
    with pytest.raises(UsageError, match="the test set is empty, there is no image in hq/ and lq/"):
        evaluate(recipe, bundle, tmp_path / "empty", out)
    with pytest.raises(UsageError, match="no model bundle there"):
        evaluate(recipe, tmp_path, folder_pairs, out)
    with pytest.raises(UsageError, match=r"registered models at .*: none"):
        evaluate(recipe, "models:/nobody@champion", folder_pairs, out)
    tiny_restorer(scale=2).save(tmp_path / "x2")
    with pytest.raises(UsageError, match="its scale is 2, the recipe 'realsr_x4' asks for 4"):
        evaluate(recipe, tmp_path / "x2", folder_pairs, out)
    tiny_restorer(task="deblurring").save(tmp_path / "other")
    with pytest.raises(UsageError, match="its task is deblurring"):
        evaluate(recipe, tmp_path / "other", folder_pairs, out)
    (tmp_path / "x2" / "denoiser.safetensors").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="x2"):
        evaluate(recipe, tmp_path / "x2", folder_pairs, out)
    assert not out.exists()
    out.write_text("a file")
    with pytest.raises(UsageError, match=r"out '.*out': is a file or lies below one; choose another --out"):
        evaluate(recipe, bundle, folder_pairs, out, dry_run=True)


def test_a_metric_whose_package_is_missing_is_said_before_any_work(folder_pairs, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    learned = load_recipe("realsr_x4", ["evaluation.metrics=[psnr_y,musiq]"])
    with pytest.raises(UsageError, match=r"'musiq' needs the package pyiqa.*resshift-foundry\[iqa\]"):
        evaluate(learned, bundle, folder_pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_says_what_is_wrong_in_one_line(bundle, tmp_path):
    command = [sys.executable, "evaluation/evaluate.py", "--recipe", "realsr_x4", "--model", str(bundle)]
    wrong = subprocess.run([*command, "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")],
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: data ")
    assert wrong.stderr.count("\n") == 1
