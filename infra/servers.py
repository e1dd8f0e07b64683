"""Servers that a developer's machine stands in for a cluster with: S3 (SeaweedFS), MLflow, Ray nodes.

Each is a context manager that waits until its server answers and ends every process it started. All listen on loopback.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import boto3
import psutil
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import JobError

LOOPBACK = "127.0.0.1"
START_SECONDS = 90
STOP_SECONDS = 4
S3_PORTS = ("s3.port", "master.port", "volume.port", "filer.port", "admin.port")


@dataclass(frozen=True)
class Server:
    """A running server: its process, and the environment in which a client finds it."""

    process: "subprocess.Popen[bytes]"
    environment: dict[str, str]

    def kill(self) -> None:
        """kill -9 of all its processes, as a machine that loses its power does."""
        _signal_all(_family(self.process.pid), signal.SIGKILL)
        self.process.wait()


@contextmanager
def s3_server(
    folder: Path, access_key: str, secret_key: str, bucket: str, ports: Mapping[str, int] | None = None
) -> Iterator[Server]:
    """SeaweedFS over `folder` with `bucket` in it.

    `ports`: those a server had that stood on this folder before (`s3_ports`), for one that comes back.
    """
    ports = ports or s3_ports()
    environment = {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{ports['s3.port']}",
    }
    command = [
        *("weed", "-logtostderr=true", "mini", f"-dir={folder}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}"),
        *("-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        "-s3.autoCreateBucket=false",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    with _running("S3", command, environment, log, lambda: _bucket_is_there(environment, bucket)) as process:
        yield Server(process, environment)


def s3_ports() -> dict[str, int]:
    """Free ports for one SeaweedFS."""
    return {name: free_port() for name in S3_PORTS}


@contextmanager
def mlflow_server(folder: Path, artifacts: str, environment: Mapping[str, str], port: int) -> Iterator[Server]:
    """MLflow with a SQLite store in `folder`, which passes artifacts through to `artifacts` (a folder or s3:// prefix).

    `environment`: what the server needs to reach the artifacts; clients need none of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://{LOOPBACK}:{port}"
    command = [
        *("mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", artifacts),
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with _running(
        "MLflow", command, {**environment, **quiet}, folder / "mlflow.log", lambda: answers(f"{url}/health")
    ) as process:
        yield Server(process, {"MLFLOW_TRACKING_URI": url})


@contextmanager
def ray_head(folder: Path, token: str, num_cpus: int, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """The head node of a Ray cluster that asks for `token`; RAY_ADDRESS is the address for drivers and `ray start`.

    `RAY_API_SERVER_ADDRESS` is where `ray job submit` goes. `environment` is what jobs and workers find (S3 keys).
    """
    port, dashboard = free_port(), free_port()
    clients = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    command = [
        *(*_ray_start(num_cpus), "--head", f"--port={port}", "--dashboard-host", LOOPBACK),
        *(f"--dashboard-port={dashboard}", f"--temp-dir={folder}"),
    ]
    clients |= {"RAY_ADDRESS": f"{LOOPBACK}:{port}", "RAY_API_SERVER_ADDRESS": f"http://{LOOPBACK}:{dashboard}"}
    ready = f"http://{LOOPBACK}:{dashboard}/api/version"
    with _running(
        "Ray",
        command,
        _ray_environment(clients, environment),
        folder / "head.log",
        lambda: answers(ready),
        polite=False,
    ) as process:
        yield Server(process, clients)


@contextmanager
def ray_node(head: Server, log: Path, num_cpus: int, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """One more node for the cluster of `head`: a raylet of its own, as on a second machine."""
    command = [*_ray_start(num_cpus), "--address", head.environment["RAY_ADDRESS"]]
    before = log.stat().st_size if log.exists() else 0
    with _running(  # Ray keeps nothing that deserves the half minute it takes to end by itself
        "Ray node", command, _ray_environment(head.environment, environment), log,
        lambda: "Ray runtime started" in log.read_text()[before:], polite=False,
    ) as process:  # fmt: skip
        yield Server(process, head.environment)


def _ray_start(num_cpus: int) -> list[str]:
    """Port 0 for the agent: 52365, which every node wants otherwise, is taken by any other Ray of this machine."""
    return [
        *("ray", "start", "--block", f"--node-ip-address={LOOPBACK}", f"--num-cpus={num_cpus}"),
        *("--disable-usage-stats", "--dashboard-agent-listen-port=0", "--object-store-memory=200000000"),
        *("--min-worker-port=0", "--max-worker-port=0"),
    ]


def _ray_environment(clients: Mapping[str, str], more: Mapping[str, str] | None) -> dict[str, str]:
    """Jobs must run this environment's python; RAY_ADDRESS would send `ray start --head` to another cluster."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    named = {name: value for name, value in clients.items() if name.startswith("RAY_AUTH")}
    return {**named, **(more or {}), "PATH": path}


@contextmanager
def _running(
    name: str,
    command: list[str],
    environment: Mapping[str, str],
    log: Path,
    ready: Callable[[], bool],
    polite: bool = True,
) -> Iterator["subprocess.Popen[bytes]"]:
    beside = str(Path(sys.executable).parent)
    program = shutil.which(command[0], path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        raise JobError(f"{name}: the program '{command[0]}' is not installed; run `make install`")
    inherited = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**inherited, **environment}, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                how = "does not answer" if process.returncode is None else f"ended with code {process.returncode}"
                raise JobError(f"{name}: {how}; the end of {log}: {log.read_text(errors='replace')[-300:]}")
            time.sleep(0.1)
        yield process
    finally:
        _end(process, polite)


def _end(process: "subprocess.Popen[bytes]", polite: bool) -> None:
    """End a server and what it started. (`ray stop` would end every Ray of this machine.)"""
    if process.poll() is not None:
        return
    family = _family(process.pid)
    if polite:
        _signal_all(family, signal.SIGTERM)
        _, family = psutil.wait_procs(family, timeout=STOP_SECONDS)
    _signal_all(family, signal.SIGKILL)
    process.wait()


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _signal_all(processes: list[psutil.Process], sign: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(sign)
        except psutil.NoSuchProcess:
            continue


def answers(url: str) -> bool:
    """True if a web server answers at `url`, with whatever status (401 when it asks for a token)."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def free_port() -> int:
    """A free port from 20000 up whose gRPC sibling (port + 10000, which SeaweedFS takes as well) is free, too."""
    while True:
        port = SystemRandom().randrange(20000, 32000)  # below the ports that the system hands out by itself
        try:
            for candidate in (port, port + 10000):
                with socket.socket() as probe:
                    probe.bind((LOOPBACK, candidate))
        except OSError:
            continue
        return port


def _bucket_is_there(environment: Mapping[str, str], bucket: str) -> bool:
    s3 = boto3.session.Session().client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"], aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5),
    )  # fmt: skip
    try:
        s3.create_bucket(Bucket=bucket)
    except ClientError as error:
        return error.response["Error"]["Code"] in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
    except BotoCoreError:
        return False
    return True
