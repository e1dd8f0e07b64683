"""What only a real S3 server behind a bad connection shows: parts, races, cut bodies, leftovers, refusals."""

import hashlib
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config

from infra import storage, storage_s3, storage_s3_client
from infra.errors import JobError
from tests.faults.proxy import Proxy

PAYLOAD = bytes(range(251)) * 80_000  # 20 MB: three parts


@pytest.fixture
def proxy(s3, s3_server, monkeypatch):
    with Proxy(s3_server["AWS_ENDPOINT_URL"]) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        storage_s3_client.forget_clients()
        yield running


@pytest.mark.parametrize("payload", [b"small", PAYLOAD])
def test_of_racing_writers_one_wins_and_its_bytes_stand(s3, payload):
    url = storage.join(s3, "raced")

    def write(number: int) -> tuple[bool, bytes]:
        mine = payload + str(number).encode()
        return storage.write_bytes(url, mine, if_absent=True), mine

    with ThreadPoolExecutor(4) as pool:
        won = [mine for first, mine in pool.map(write, range(4)) if first]
    assert storage.read_bytes(url) in won
    # This server completes an upload in parts in two strokes, so that two writers of the same moment may both be told
    # that they were first. A dataset does not rest on it: its records, of one part, decide.
    assert len(won) == 1 or payload == PAYLOAD
    assert storage.clear_unfinished(s3) == 0


def test_a_writer_that_fails_leaves_nothing(s3):
    def write_half() -> None:
        with storage.open_write(storage.join(s3, "never")) as sink:
            sink.write(PAYLOAD)
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert not storage.exists(s3)
    assert storage.clear_unfinished(s3) == 0


def test_what_a_killed_writer_left_is_cleared(s3):
    script = (
        "import os, signal, sys\nfrom infra import storage\n"
        "with storage.open_write(sys.argv[1] + '/half') as sink:\n"
        "    sink.write(bytes(20 << 20))\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, s3], check=False)
    assert not storage.exists(storage.join(s3, "half"))
    assert storage.clear_unfinished(s3) == 1
    assert storage.clear_unfinished(s3) == 0


def test_a_sink_knows_its_sum(s3):
    url = storage.join(s3, "summed")
    with storage.open_write(url) as sink:
        for start in range(0, len(PAYLOAD), 999_983):
            sink.write(PAYLOAD[start : start + 999_983])
    assert (sink.created, sink.bytes, sink.sha256) == (True, len(PAYLOAD), hashlib.sha256(PAYLOAD).hexdigest())
    assert storage.sha256(url) == sink.sha256


def test_a_body_that_breaks_off_is_taken_up_again(proxy, s3):
    url = storage.join(s3, "big")
    storage.write_bytes(url, PAYLOAD)
    proxy.cut_after, proxy.cuts = 3_000_000, 3
    assert storage.read_bytes(url) == PAYLOAD
    assert proxy.cuts == 0


def test_a_whole_object_is_read_into_one_buffer(s3):
    url = storage.join(s3, "big")
    storage.write_bytes(url, PAYLOAD)
    storage.read_bytes(url)  # what a first read loads is there now
    tracemalloc.start()
    try:
        data = storage.read_bytes(url)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data == PAYLOAD
    assert peak < len(PAYLOAD) + (8 << 20)
    storage.write_bytes(url, b"")
    assert storage.read_bytes(url) == b""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(
        storage_s3_client, "LATER", storage_s3_client.LATER.merge(Config(connect_timeout=1, read_timeout=1))
    )
    monkeypatch.setattr(storage_s3_client, "PATIENCE_SECONDS", 1.4)


@pytest.mark.parametrize("payload", [b"small", PAYLOAD])
def test_a_store_that_falls_silent_is_given_up(payload, proxy, s3, impatient):
    """After two attempts of the request that noticed it; nothing is asked after that, not even to abort the upload."""
    storage.write_bytes(storage.join(s3, "first"), b"1")
    with pytest.raises(storage_s3_client.Unreachable, match=r"cannot be used \((ReadTimeout|ConnectionClosed)Error\)"):
        write_into_silence(storage.join(s3, "second"), payload, proxy)
    assert time.monotonic() - proxy.since < 12


def write_into_silence(url: str, payload: bytes, proxy: Proxy) -> None:
    with storage.open_write(url) as sink:
        sink.write(payload)
        proxy.silent, proxy.since = True, time.monotonic()


def test_a_body_that_falls_silent_is_given_up(proxy, s3, impatient):
    url = storage.join(s3, "big")
    storage.write_bytes(url, PAYLOAD)
    with storage.open_read(url) as stream:
        stream.read(10)
        proxy.silent, start = True, time.monotonic()
        with pytest.raises(storage_s3_client.Unreachable):
            stream.read()
    assert time.monotonic() - start < 12


def test_a_store_that_is_silent_for_a_moment_is_waited_for(proxy, s3, impatient):
    url = storage.join(s3, "first")
    storage.write_bytes(url, b"1")
    proxy.silent = True
    threading.Timer(1.2, lambda: setattr(proxy, "silent", False)).start()
    assert storage.read_bytes(url) == b"1"


def test_refusals_of_a_busy_server_are_waited_out(proxy, s3):
    storage.write_bytes(storage.join(s3, "first"), b"1")
    proxy.refusals = 2
    storage_s3_client.forget_clients()
    assert storage.read_bytes(storage.join(s3, "first")) == b"1"


def test_odd_names(s3):
    for name in ("a#b?c.png", "ä ö%20.png", "a+b=c&d.png"):
        storage.write_bytes(storage.join(s3, name), name.encode())
        assert storage.read_bytes(storage.join(s3, name)) == name.encode()
    assert [entry.name for entry in storage.list_files(s3)] == ["a#b?c.png", "a+b=c&d.png", "ä ö%20.png"]


def test_a_neighbour_with_a_longer_name_is_another(s3):
    storage.write_bytes(storage.join(s3, "pairs-old", "x"), b"x")
    assert not storage.exists(storage.join(s3, "pairs"))
    storage.write_bytes(storage.join(s3, "pairs", "x"), b"x")
    assert storage.exists(storage.join(s3, "pairs"))


def test_no_secret_is_shown_with_an_endpoint(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hidden@127.0.0.1:9")
    assert storage_s3_client.endpoint() == "http://127.0.0.1:9"


def test_an_endpoint_that_is_no_url(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:8333")
    storage_s3_client.forget_clients()
    with pytest.raises(JobError, match=r"AWS_ENDPOINT_URL.*write http://host:port"):
        storage.exists(s3)


def test_a_slow_store_slows_the_writer_and_costs_no_memory(proxy, s3):
    """150 MB through a store that takes 50 MB/s: the writer never holds more than its four parts."""
    script = (
        "import resource, sys\nfrom infra import storage\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "storage.write_bytes(sys.argv[1] + '/first', bytes(17 << 20))\n"  # threads, TLS and buffers are there now
        "before, block = peak(), bytes(1 << 20)\n"
        "with storage.open_write(sys.argv[1] + '/slow') as sink:\n"
        "    for _ in range(150): sink.write(block)\n"
        "print(peak() - before)\n"
    )
    proxy.bytes_per_second = 50_000_000
    done = subprocess.run([sys.executable, "-c", script, s3], capture_output=True, text=True, check=True)
    assert storage.size(storage.join(s3, "slow")) == 150 << 20
    assert int(done.stdout) < 48  # MiB: four parts of 8 MiB, and a copy of the one being sent


@pytest.fixture
def conflicts(s3):
    """A list of operations; the store answers 409 to each of them once, as it does while another writer is at work."""
    storage.exists(s3)
    events, planned = storage_s3_client._client(os.getpid()).meta.events, []

    def answer(request, event_name, **_):
        operation = event_name.rpartition(".")[2]
        if operation not in planned:
            return None
        planned.remove(operation)
        body = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
        return AWSResponse(request.url, 409, HTTPHeaders(), types.SimpleNamespace(stream=lambda: iter([body])))

    events.register("before-send.s3", answer)
    yield planned
    events.unregister("before-send.s3", answer)


@pytest.mark.parametrize(("payload", "operation"), [(b"small", "PutObject"), (PAYLOAD, "CompleteMultipartUpload")])
def test_a_conflict_is_not_taken_for_a_lost_race(s3, conflicts, payload, operation, monkeypatch):
    monkeypatch.setattr(storage_s3, "CONFLICT_SECONDS", 0)
    url = storage.join(s3, "contested")
    conflicts += [operation] * 2
    assert storage.write_bytes(url, payload, if_absent=True)
    assert storage.read_bytes(url) == payload
    assert not conflicts
    conflicts.append(operation)
    assert not storage.write_bytes(url, payload, if_absent=True)
    conflicts += [operation] * storage_s3.CONFLICT_ATTEMPTS
    with pytest.raises(JobError, match="answered 409 ConditionalRequestConflict; run the same command again"):
        storage.write_bytes(storage.join(s3, "other"), payload, if_absent=True)
    assert not storage.exists(storage.join(s3, "other"))
    assert storage.clear_unfinished(s3) == 0
