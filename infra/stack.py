"""`make stack`: what a cluster offers, on this machine: S3 (SeaweedFS), MLflow on PostgreSQL, a Ray head node.

Everything listens on loopback, keeps its data below one folder and goes on from there next time. The environment that
the commands need stands in a file to source. Ctrl-C ends it all.
"""

import argparse
import json
import os
import secrets
import shlex
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from infra.errors import JobError
from infra.server_process import Server, free_port
from infra.servers import mlflow_server, postgres_server, ray_head, s3_ports, s3_server

BUCKET = "foundry"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make stack", description=__doc__)
    parser.add_argument("--folder", default="stack", type=Path, help="where its data lies (default: stack)")
    parser.add_argument("--sqlite", action="store_true", help="MLflow on a SQLite file instead of PostgreSQL")
    parser.add_argument("--no-ray", action="store_true", help="without a Ray head: commands start Ray by themselves")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    try:
        stack(arguments.folder.absolute(), with_ray=not arguments.no_ray, with_postgres=not arguments.sqlite)
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; the data stays, `make stack` goes on from it", file=sys.stderr)


def stack(folder: Path, with_ray: bool, with_postgres: bool) -> None:
    """Start the servers, write `folder`/environment, and wait until one ends (JobError) or someone presses Ctrl-C."""
    settings = _settings(folder)
    with ExitStack() as running:
        s3 = running.enter_context(
            s3_server(folder / "s3", "developer", settings["secret"], BUCKET, settings["s3_ports"])
        )
        servers = {"S3": s3}
        behind = s3.environment
        if with_postgres:
            postgres = running.enter_context(
                postgres_server(folder / "postgres", settings["secret"], settings["postgres_port"])
            )
            servers["PostgreSQL"] = postgres
            behind = behind | postgres.environment
        mlflow = running.enter_context(
            mlflow_server(folder / "mlflow", f"s3://{BUCKET}/mlflow", behind, settings["mlflow_port"])
        )
        servers["MLflow"] = mlflow
        if with_ray:
            # Sockets lie in Ray's folder, and their paths must stay below 108 characters.
            short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)))
            inside = {**s3.environment, **mlflow.environment}
            servers["Ray"] = running.enter_context(ray_head(short, settings["secret"], os.cpu_count() or 1, inside))
        _announce(folder, servers)
        while all(server.process.poll() is None for server in servers.values()):
            time.sleep(0.5)
        ended = next(name for name, server in servers.items() if server.process.poll() is not None)
        raise JobError(f"{ended} ended by itself (code {servers[ended].process.returncode}); see the logs in {folder}")


def _announce(folder: Path, servers: dict[str, Server]) -> None:
    environment = {name: value for server in servers.values() for name, value in server.environment.items()}
    has_postgres = environment.pop("MLFLOW_BACKEND_STORE_URI", None) is not None  # the server's own; clients ask it
    path = folder / "environment"
    path.touch(mode=0o600)
    path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()))
    print(f"S3      {environment['AWS_ENDPOINT_URL']}, bucket s3://{BUCKET}")
    print(f"MLflow  {environment['MLFLOW_TRACKING_URI']}, on {'PostgreSQL' if has_postgres else 'SQLite'}")
    if "RAY_API_SERVER_ADDRESS" in environment:
        print(f"Ray     {environment['RAY_API_SERVER_ADDRESS']} (dashboard and `ray job submit`)")
    print(f"\nIn another terminal:  source {path}")
    print(f"Then give URLs like s3://{BUCKET}/pairs to the commands. Ctrl-C stops.", flush=True)


def _settings(folder: Path) -> dict:
    """Secret and ports, drawn once: what was exported yesterday still holds."""
    path = folder / "settings.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(
            json.dumps(
                {
                    "secret": secrets.token_hex(16),
                    "s3_ports": s3_ports(),
                    "mlflow_port": free_port(),
                    "postgres_port": free_port(),
                }
            )
        )
    return json.loads(path.read_text())


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
