"""Which code made something: recorded in every shard, run and report. Cheap to import, for Ray workers."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def code_version() -> str:
    """Package version and, in a git checkout, the commit (`+dirty` with uncommitted changes)."""
    here = Path(__file__).parent
    described = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty=+dirty", "--abbrev=12", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    commit = f" ({described.stdout.strip()})" if described.returncode == 0 else ""
    return version("resshift-foundry") + commit
