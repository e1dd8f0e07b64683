"""The same command, submitted to a running Ray cluster with `ray job submit`, makes the same bytes."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from infra.servers import free_port
from tests.pipelines.conftest import SMALL, shard_digests

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.faults  # needs a head node of its own


@pytest.fixture
def ray_head(tmp_path, monkeypatch):
    """A cluster of its own with one head node; yields the address that jobs are submitted to."""
    dashboard, folder = free_port(), tempfile.mkdtemp(prefix="ray-")  # a short path: sockets allow 107 characters
    command = [
        *("ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--disable-usage-stats"),
        *(
            f"--port={free_port()}",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={free_port()}",
            "--min-worker-port=46000",
        ),
        *("--max-worker-port=46200", f"--temp-dir={folder}", "--object-store-memory=200000000"),
    ]
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # a cluster asks for a token unless it is told not to
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{dashboard}/api/version", head, tmp_path / "head.log")
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        _kill_tree(head)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_healthy(url: str, head: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError:
            return  # 401: it is up and asks for the token that `ray job submit` reads by itself
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"no answer at {url}: {log.read_text()}")


def _kill_tree(head: subprocess.Popen) -> None:
    """End this head and what it started, and nothing else (`ray stop` would end every Ray of this machine)."""
    started = [head.pid, *(child.pid for child in psutil.Process(head.pid).children(recursive=True))]
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    head.wait()


def _submit(address: str, entrypoint: list[str]) -> subprocess.CompletedProcess:
    """`ray job submit`; a head that has just started may still be without the agent that takes jobs."""
    command = ["ray", "job", "submit", "--address", address, "--", *entrypoint]
    deadline = time.monotonic() + 60
    while True:
        job = subprocess.run(command, capture_output=True, text=True, check=False)
        if "No available agent" not in job.stderr + job.stdout or time.monotonic() > deadline:
            return job
        time.sleep(1)


def test_a_submitted_job_makes_the_same_shards(ray_head, photos, tmp_path):
    script, out = ROOT / "pipelines" / "make_pairs.py", tmp_path / "submitted"
    arguments = ["--recipe", "realsr_x4", "--source", str(photos), *SMALL]
    job = _submit(ray_head, ["python", str(script), *arguments, "--out", str(out)])
    assert job.returncode == 0, job.stdout + job.stderr
    assert "9 pairs in 3 shards (3 made now, 0 rejected)" in job.stdout
    here = tmp_path / "here"
    alone = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, str(script), *arguments, "--out", str(here), "--workers", "1"]
    subprocess.run(command, check=True, env=alone)
    assert shard_digests(out) == shard_digests(here)
