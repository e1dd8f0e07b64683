"""A server of this machine as a process: started, awaited, and ended with everything that it started."""

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

import psutil

from infra.errors import JobError

LOOPBACK = "127.0.0.1"
START_SECONDS = 90
STOP_SECONDS = 4


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
def running(
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
    """A free port from 20000 to 29999 whose gRPC sibling (port + 10000, which SeaweedFS takes as well) is free, too.

    No port is the sibling of another.
    """
    while True:
        port = SystemRandom().randrange(20000, 30000)
        try:
            for candidate in (port, port + 10000):
                with socket.socket() as probe:
                    probe.bind((LOOPBACK, candidate))
        except OSError:
            continue
        return port
