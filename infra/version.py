"""Which code made something: recorded in every shard, run and report. Cheap to import, for Ray workers."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def code_version() -> str:
    """Package version and, in a git checkout, the commit (`+dirty` with uncommitted changes)."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git on this machine, as in a slim container
        return version("resshift-foundry")
    commit = f" ({described.stdout.strip()})" if described.returncode == 0 else ""
    return version("resshift-foundry") + commit
