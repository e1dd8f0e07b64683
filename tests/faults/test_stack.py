"""`make stack` as a developer uses it: start, source the environment, work, Ctrl-C, and the data is there next time."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from infra.errors import JobError
from infra.servers import not_root
from tests.faults.conftest import HEARS_CTRL_C, ROOT, environment

pytestmark = pytest.mark.faults
USE = """
import mlflow, sys
from infra import storage
print(storage.exists("s3://foundry/kept"))
storage.write_bytes("s3://foundry/kept", b"x")
mlflow.set_experiment("first")
with mlflow.start_run():
    mlflow.log_dict({"a": 1}, "a.json")
print(len(mlflow.search_runs(output_format="list")))
"""


def test_start_use_stop_and_go_on(tmp_path):
    database = []
    try:
        not_root()
    except JobError:  # PostgreSQL cannot run here
        database = ["--sqlite"]
    seen = []
    for _ in range(2):
        folder = str(tmp_path / "stack")
        command = [*HEARS_CTRL_C, sys.executable, "-m", "infra.stack", "--folder", folder, "--no-ray", *database]
        log = tmp_path / "log"
        with log.open("wb") as output:
            stack = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 180
            while "Ctrl-C stops" not in log.read_text():
                assert stack.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            started = psutil.Process(stack.pid).children(recursive=True)
            shell = f'. {tmp_path}/stack/environment && exec "{sys.executable}" -c "$1"'
            done = subprocess.run(
                ["sh", "-c", shell, "sh", USE], env=environment(), capture_output=True, text=True, check=False, cwd=ROOT
            )
            assert done.returncode == 0, done.stderr
            assert ("on SQLite" if database else "on PostgreSQL") in log.read_text()
            seen.append([line for line in done.stdout.splitlines() if line in ("True", "False", "1", "2")])
            os.kill(stack.pid, signal.SIGINT)
            assert stack.wait(timeout=60) == 0
            assert "the data stays" in log.read_text()
            assert not [process for process in started if process.is_running()]
        finally:
            stack.terminate()
    assert seen == [["False", "1"], ["True", "2"]]
