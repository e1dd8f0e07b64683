"""Commands end with the documented exit code and one line, never with a traceback for a user's mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
from infra.cli import run
from infra.errors import JobError, UsageError
def main(what: str = "fine") -> None:
    if what == "usage": raise UsageError("field: 3 is wrong;\\n   use 4")
    if what == "job": raise JobError("the disk is full")
    if what == "bug": raise ZeroDivisionError
    print("done")
run(main)
"""


def run_program(*arguments: str, env: dict | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [("usage", 2, "error: field: 3 is wrong; use 4\n"), ("job", 1, "error: the disk is full\n"), ("fine", 0, "")],
)
def test_exit_codes_and_one_line(what, code, line):
    done = run_program("--what", what)
    assert (done.returncode, done.stderr) == (code, line)


def test_a_bug_keeps_its_traceback():
    done = run_program("--what", "bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_an_unknown_option_is_wrong_usage():
    done = run_program("--wat")
    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_debug_shows_where_it_came_from():
    done = run_program("--what", "usage", env={"RESSHIFT_DEBUG": "1"})
    assert "Traceback" in done.stderr
