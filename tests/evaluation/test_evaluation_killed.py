"""An evaluation whose process is killed goes on where it stopped, with the same figures; here into a real S3 store."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest

from evaluation.pair_set import open_pairs
from evaluation.rows import finished_shards, read_rows
from infra import storage
from resshift import Restorer
from tests.evaluation.evaluating import run_in_process

pytestmark = pytest.mark.faults
METRICS = ("psnr_y", "ssim_y", "lpips_alex")


def start(bundle, data, out, store):
    command = [sys.executable, "evaluation/evaluate.py", "--recipe", "realsr_x4", "--model", str(bundle), "--data",
               str(data), "--out", out, "--workers", "1", f"evaluation.metrics=[{','.join(METRICS)}]",
               "evaluation.images_per_shard=1"]  # fmt: skip
    environment = os.environ | {"MLFLOW_TRACKING_URI": store, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_a_killed_evaluation_goes_on_in_an_s3_store(folder_pairs, bundle, s3, mlflow_store, tmp_path):
    out = f"{s3}/evaluation"
    process = start(bundle, folder_pairs, out, mlflow_store)
    deadline = time.monotonic() + 90
    while not 1 <= len(finished_shards(out)) < 9 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {entry.name: storage.read_bytes(entry.url) for entry in storage.list_files(f"{out}/rows")}
    assert 1 <= len(before) < 9, "killed too late to show anything"
    assert not storage.exists(f"{out}/report.html")

    process = start(bundle, folder_pairs, out, mlflow_store)
    assert process.wait(timeout=120) == 0, process.communicate()[1]
    process.communicate()
    after = {entry.name: storage.read_bytes(entry.url) for entry in storage.list_files(f"{out}/rows")}
    assert len(after) == 9
    assert {name: after[name] for name in before} == before, "what was done was not done again"
    assert storage.exists(f"{out}/report.html")

    pairs = open_pairs(str(folder_pairs), images_per_shard=1)
    whole = run_in_process(pairs, tmp_path, Restorer.load(bundle), METRICS, tile_size=512, tile_overlap=64)
    resumed = read_rows(out, sorted(finished_shards(out)))
    columns = ["key", "method", "status", *METRICS]
    pd.testing.assert_frame_equal(resumed[columns], whole[columns])
    images = {entry.name: entry.url for entry in storage.list_files(f"{out}/restored/model", ".png")}
    assert len(images) == 9
    for name, url in images.items():
        assert storage.read_bytes(url) == (tmp_path / "restored" / "model" / name).read_bytes()


def test_a_worker_that_dies_is_replaced(folder_pairs, bundle, tmp_path, mlflow_store):
    out = str(tmp_path / "out")
    process = start(bundle, folder_pairs, out, mlflow_store)
    deadline, killed = time.monotonic() + 90, None
    while killed is None and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        if finished_shards(out):
            workers = [child for child in psutil.Process(process.pid).children(recursive=True)
                       if "EvaluatorActor" in " ".join(child.cmdline())]  # fmt: skip
            if workers:
                killed = workers[0]
                killed.kill()
        time.sleep(0.02)
    assert killed is not None
    left = 9 - len(finished_shards(out))
    assert left > 0, "killed too late to show anything"
    assert process.wait(timeout=120) == 0, process.communicate()[1]
    assert "9/9 images" in process.communicate()[1], "what the dead worker had counted is not counted twice"
    rows = read_rows(out, sorted(finished_shards(out)))
    assert rows["key"].nunique() == 9
    assert (rows["status"] == "ok").all()
