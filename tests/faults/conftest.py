"""Commands as their users start them, with a plan small enough to be killed at every corner of it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
from PIL import Image

from pipelines.shard import committed_shards

ROOT = Path(__file__).parents[2]
PLAN = [
    *("--recipe", "realsr_x4", "shards.hq_size=64", "shards.samples_per_shard=40", "shards.variants=60"),
    *("shards.max_reject_rate=0.5", "shards.seed=7"),
]
HEARS_CTRL_C = ["env", "--default-signal=INT"]
"""Before a command: a shell that runs tests in the background has it ignore Ctrl-C, and its children inherit that."""
NUM_SHARDS = 12  # 8 photos x 60 variants / 40


@pytest.fixture(scope="session")
def eight_photos(tmp_path_factory) -> Path:
    """A folder of eight small real photos."""
    from skimage import data

    folder = tmp_path_factory.mktemp("eight")
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        image = getattr(data, name)()
        Image.fromarray(image[40:200, 60:220]).save(folder / f"{name}_a.png")
        Image.fromarray(image[100:260, 150:310]).save(folder / f"{name}_b.png")
    return folder


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of a user's shell: nothing that pytest or another test set for Ray or S3, but what `more` says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", **(more or {})}


def make_pairs_command(source: object, out: object, *more: str) -> list[str]:
    script = str(ROOT / "pipelines" / "make_pairs.py")
    return ["python", script, *PLAN, "--source", str(source), "--out", str(out), *more]


def run(command: list[str], more: Mapping[str, str] | None = None, timeout: float = 180) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, env=environment(more), capture_output=True, text=True, check=False, timeout=timeout, cwd="/"
    )


@pytest.fixture(scope="session")
def undisturbed(eight_photos, tmp_path_factory) -> dict[int, str]:
    """sha256 of every shard of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run(make_pairs_command(eight_photos, out, "--workers", "2"))
    assert done.returncode == 0, done.stderr
    return digests(str(out))


def digests(url: str) -> dict[int, str]:
    return {shard: record.sha256 for shard, record in committed_shards(url).items()}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait until `condition` holds while `process` is at work; fails if it ends before or nothing happens."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before it could be disturbed"
        assert time.monotonic() < deadline, "it did not get that far"
        time.sleep(0.02)


def ray_workers(ancestor: int, title: str) -> list[psutil.Process]:
    """Ray workers below a process that do right now what their title says, e.g. "ray::Encoder.encode"."""
    found = []
    for process in psutil.Process(ancestor).children(recursive=True):
        try:
            if "".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.NoSuchProcess:  # it has just ended
            continue
    return found


def kill_a_worker(driver: subprocess.Popen, title: str) -> None:
    """Wait until a Ray worker of this driver is at what its title says, and kill -9 it."""

    def killed() -> bool:
        for process in ray_workers(driver.pid, title):
            try:
                process.kill()
                return True
            except psutil.NoSuchProcess:  # too late; the next one
                continue
        return False

    wait_for(killed, driver)
