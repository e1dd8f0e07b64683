"""What can be wrong with an evaluation is one clear line, and what was already evaluated is kept."""

import importlib.util
import subprocess
import sys

import pytest

from evaluation.registry import client
from evaluation.rows import finished_shards
from infra.errors import JobError, UsageError
from infra.recipe import load_recipe
from infra.servers import free_port
from tests.evaluation.conftest import tiny_restorer
from tests.evaluation.evaluating import evaluate


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


def test_a_set_in_which_nothing_can_be_measured_fails(recipe, bundle, tmp_path, mlflow_store, local_ray):
    for name in ("hq", "lq"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.png").write_bytes(b"no image")
    with pytest.raises(JobError, match=r"no image of .* could be measured: .*is not an image"):
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
