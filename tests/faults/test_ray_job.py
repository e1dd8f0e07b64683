"""The same command, submitted to a running cluster with `ray job submit`: two nodes, one of them lost in mid-run."""

import os
import secrets
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import torch

from infra.server_process import Server
from infra.servers import ray_head, ray_node
from resshift.vqgan import VQGAN
from resshift.vqgan_config import VQGANConfig
from resshift.weights import save_vqgan
from tests.faults.conftest import NUM_SHARDS, PLAN, ROOT, digests, environment, ray_workers, run
from tests.faults.test_latents import NETWORK

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


def wait_for_work(job: subprocess.Popen, log: Path, out: Path, enough: int, node: Server, title: str) -> None:
    """Until so many shards are committed and a worker of the node is at what its title says."""
    deadline = time.monotonic() + 120
    while not (len(list((out / "shards").glob("*.json"))) >= enough and ray_workers(node.process.pid, title)):
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def test_a_lost_node_changes_nothing(head, eight_photos, undisturbed, tmp_path):
    out, log = tmp_path / "out", tmp_path / "job.log"
    script = str(ROOT / "pipelines" / "make_pairs.py")
    with ray_node(head, tmp_path / "node.log", num_cpus=1) as node:
        job = submit(head, ["python", script, *PLAN, "--source", str(eight_photos), "--out", str(out)], log)
        wait_for_work(job, log, out, 3, node, "ray::_make_pair_shard")
        done_before = len(list((out / "shards").glob("*.json")))
        node.kill()  # raylet, workers and agents, as when a machine loses its power
        assert done_before < NUM_SHARDS
        code = job.wait(timeout=240)
    assert code == 0, log.read_text()
    assert f"480 pairs in {NUM_SHARDS} shards ({NUM_SHARDS} made now, 0 rejected)" in log.read_text()
    assert digests(str(out)) == undisturbed


def test_an_encoder_lost_with_its_node_is_not_waited_for(head, photos, tmp_path):
    """One encoder on each of two nodes: the core that the lost one would need is taken by the other to the end."""
    pairs, expected, out, log = (tmp_path / name for name in ("pairs", "expected", "out", "job.log"))
    torch.manual_seed(1)
    save_vqgan(VQGAN(VQGANConfig(**NETWORK)), tmp_path / "autoencoder", latent_scale=1.0)
    sizes = ["shards.hq_size=64", "shards.samples_per_shard=8", "shards.variants=40"]
    overrides = [*(f"autoencoder.network.{key}={list(v) if isinstance(v, tuple) else v}" for key, v in NETWORK.items())]
    overrides += [*sizes, f"autoencoder.weights={tmp_path / 'autoencoder'}", "autoencoder.precision=float32"]
    chosen = ["--recipe", "realsr_x4", *overrides]
    for script, *arguments in (
        ("make_pairs.py", "--source", str(photos), "--out", str(pairs)),
        ("make_latents.py", "--pairs", str(pairs), "--out", str(expected), "--workers", "2"),
    ):
        done = run(["python", str(ROOT / "pipelines" / script), *chosen, *arguments])
        assert done.returncode == 0, done.stderr
    command = ["python", str(ROOT / "pipelines" / "make_latents.py"), *chosen, "--pairs", str(pairs), "--out", str(out)]
    with ray_node(head, tmp_path / "node.log", num_cpus=1) as node:
        job = submit(head, command, log)
        wait_for_work(job, log, out, 2, node, "ray::Encoder")
        node.kill()
        code = job.wait(timeout=240)
    assert code == 0, log.read_text()
    assert "120 latents in 15 shards (15 made now)" in log.read_text()
    assert digests(str(out)) == digests(str(expected))
