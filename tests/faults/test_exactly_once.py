"""kill -9 of a worker, of the driver and of the S3 server, and two jobs on one output: the same shards, each once."""

import os
import re
import secrets
import signal
import subprocess
import time
from pathlib import Path

import pytest

from infra import storage, storage_s3_client
from infra.servers import s3_ports, s3_server
from pipelines.dataset import iter_shard, open_dataset
from pipelines.verification import verify
from tests.faults.conftest import (
    HEARS_CTRL_C,
    NUM_SHARDS,
    digests,
    environment,
    kill_a_worker,
    make_pairs_command,
    run,
    wait_for,
)

pytestmark = pytest.mark.faults


def start(command: list[str], more: dict | None = None) -> subprocess.Popen:
    return subprocess.Popen(command, env=environment(more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def committed(out: object) -> list[Path]:
    return sorted(Path(str(out), "shards").glob("*.json"))


def assert_each_sample_once(out: str) -> None:
    dataset = open_dataset(out)
    samples = [sample for shard in range(NUM_SHARDS) for sample in iter_shard(dataset, shard, ["record"])]
    assert len({sample["key"] for sample in samples}) == len(samples) == 480
    assert len({(sample["record"]["source"], sample["record"]["variant"]) for sample in samples}) == 480
    assert verify(out).faults == []


def test_killed_workers_are_replaced(eight_photos, undisturbed, tmp_path):
    out = tmp_path / "out"
    driver = start(make_pairs_command(eight_photos, out, "--workers", "2"))
    for enough in (1, 4, 7):
        wait_for(lambda enough=enough: len(committed(out)) >= enough, driver)
        kill_a_worker(driver, "ray::_make_pair_shard")
    said, complained = driver.communicate(timeout=180)
    assert driver.returncode == 0, complained
    assert f"({NUM_SHARDS} made now" in said
    assert digests(str(out)) == undisturbed
    assert_each_sample_once(str(out))


def test_a_killed_driver_goes_on_where_it_was(eight_photos, undisturbed, tmp_path):
    out = tmp_path / "out"
    driver = start(make_pairs_command(eight_photos, out, "--workers", "2"))
    wait_for(lambda: len(committed(out)) >= 4, driver)
    driver.kill()  # its workers are on their own now: the next run may meet them while they still write
    driver.communicate()
    finished = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in committed(out)}
    assert len(finished) < NUM_SHARDS
    done = run(make_pairs_command(eight_photos, out, "--workers", "2"))
    assert done.returncode == 0, done.stderr
    made_now = re.search(r"\((\d+) made now", done.stdout)
    assert made_now
    assert 0 < int(made_now[1]) <= NUM_SHARDS - len(finished)
    for path, (changed, text) in finished.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (changed, text)
    assert digests(str(out)) == undisturbed
    assert_each_sample_once(str(out))
    assert {path.suffix for path in (out / "shards").iterdir()} == {".tar", ".json"}  # nothing of the killed is left
    assert len(list((out / "shards").iterdir())) == 2 * NUM_SHARDS


def test_a_killed_s3_server(eight_photos, undisturbed, tmp_path, monkeypatch):
    """Killed for good, the job ends with one line; killed and back within seconds, it goes on."""
    secret, ports, folder = secrets.token_hex(8), s3_ports(), tmp_path / "data"
    out = "s3://tests/pairs"
    with s3_server(folder, "key", secret, "tests", ports) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        storage_s3_client.forget_clients()
        job = start(make_pairs_command(eight_photos, out, "--workers", "2"), server.environment)
        wait_for(lambda: len(list(storage.list_files(f"{out}/shards", ".json"))) >= 2, job)
        server.kill()
        _, complained = job.communicate(timeout=180)
    assert job.returncode == 1
    errors = [line for line in complained.splitlines() if not line.startswith("pairs:")]
    assert len(errors) == 1
    assert "cannot be used" in errors[0] or "answered 5" in errors[0]
    with s3_server(folder, "key", secret, "tests", ports) as server:
        before = records_as_stored(out)
        assert 2 <= len(before) < NUM_SHARDS
        job = start(make_pairs_command(eight_photos, out, "--workers", "2"), server.environment)
        wait_for(lambda: len(records_as_stored(out)) >= len(before) + 2, job)
        server.kill()
        time.sleep(1)
        with s3_server(folder, "key", secret, "tests", ports):
            _, complained = job.communicate(timeout=180)
            assert job.returncode == 0, complained
            after = records_as_stored(out)
            assert before.items() <= after.items()
            assert digests(out) == undisturbed
            assert_each_sample_once(out)
            assert storage.clear_unfinished(out) == 0
    storage_s3_client.forget_clients()


def records_as_stored(out: str) -> dict[str, tuple]:
    """ETag and time of every commit record."""
    bucket, prefix = storage_s3_client.bucket_and_key(f"{out}/shards/")
    listed = storage_s3_client.client(out).list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {item["Key"]: (item["ETag"], item["LastModified"]) for item in listed if item["Key"].endswith(".json")}


def test_two_jobs_on_one_output(eight_photos, undisturbed, s3, s3_server):
    command = make_pairs_command(eight_photos, f"{s3}/raced", "--workers", "1")
    jobs = [start(command, s3_server), start(command, s3_server)]
    for job in jobs:
        _, complained = job.communicate(timeout=180)
        assert job.returncode == 0, complained
    assert digests(f"{s3}/raced") == undisturbed
    assert_each_sample_once(f"{s3}/raced")
    names = [entry.name for entry in storage.list_files(f"{s3}/raced/shards")]
    assert len(names) == 2 * NUM_SHARDS


def test_ctrl_c_stops_at_once_and_says_how_to_go_on(eight_photos, tmp_path):
    out = tmp_path / "out"
    job = start([*HEARS_CTRL_C, *make_pairs_command(eight_photos, out, "--workers", "2")])
    wait_for(lambda: len(committed(out)) >= 1, job)
    os.kill(job.pid, signal.SIGINT)
    _, complained = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "stopped; run the same command again to go on" in complained.splitlines()
    assert "Traceback" not in complained
