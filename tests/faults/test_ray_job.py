"""The same command, submitted to a running cluster with `ray job submit`: two nodes, one of them lost in mid-run."""

import os
import secrets
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from infra.servers import Server, ray_head, ray_node
from tests.faults.conftest import NUM_SHARDS, PLAN, ROOT, digests, environment, ray_workers

pytestmark = pytest.mark.faults


@pytest.fixture
def head(monkeypatch):
    """The head node, with one core, of a cluster of its own that asks for a token."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    # A short path: sockets lie in it, and their paths may have 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
        ray_head(Path(folder), secrets.token_hex(16), num_cpus=1) as server,
    ):
        yield server


def submit(head: Server, entrypoint: list[str], log: Path) -> subprocess.Popen:
    """`ray job submit`, which follows the job to its end and ends with its exit code."""
    command = ["ray", "job", "submit", "--address", head.environment["RAY_API_SERVER_ADDRESS"], "--", *entrypoint]
    client = {name: value for name, value in head.environment.items() if name.startswith("RAY_AUTH")}
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment(client), stdout=output, stderr=output)


def test_a_lost_node_changes_nothing(head, eight_photos, undisturbed, tmp_path):
    out, log = tmp_path / "out", tmp_path / "job.log"
    script = str(ROOT / "pipelines" / "make_pairs.py")
    with ray_node(head, tmp_path / "node.log", num_cpus=1) as node:
        job = submit(head, ["python", script, *PLAN, "--source", str(eight_photos), "--out", str(out)], log)
        deadline = time.monotonic() + 120
        while not (
            len(list((out / "shards").glob("*.json"))) >= 3 and ray_workers(node.process.pid, "ray::_make_pair_shard")
        ):
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        done_before = len(list((out / "shards").glob("*.json")))
        node.kill()  # raylet, workers and agents, as when a machine loses its power
        assert done_before < NUM_SHARDS
        code = job.wait(timeout=240)
    assert code == 0, log.read_text()
    assert f"480 pairs in {NUM_SHARDS} shards ({NUM_SHARDS} made now, 0 rejected)" in log.read_text()
    assert digests(str(out)) == undisturbed
