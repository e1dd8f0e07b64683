"""What all commands share: option types, and one place that turns errors into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage (promotion adds 3, refused by a gate). A user's mistake is one line on
stderr, `error: <field>: <value> ...; <remedy>`. `RESSHIFT_DEBUG=1` shows the traceback behind that line.
"""

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from infra.errors import JobError, UsageError

RecipeOption = Annotated[
    str, typer.Option("--recipe", help="Name of a shipped recipe, or path of a YAML file.", show_default=False)
]
OutOption = Annotated[
    str, typer.Option("--out", help="Where the result goes: a folder or s3://bucket/prefix.", show_default=False)
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Most workers at once (default: what the cluster has).")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and change nothing.")]
CpuPriceOption = Annotated[
    float | None, typer.Option("--price-per-cpu-hour", min=0, help="With --dry-run: what a core costs.")
]
GpuPriceOption = Annotated[
    float | None, typer.Option("--price-per-gpu-hour", min=0, help="With --dry-run: what a GPU costs.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Override recipe values.", show_default=False),
]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 130


def run(main: Callable[..., Any]) -> None:
    """Run a typer function as a command and leave the process with the documented exit code."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @functools.wraps(main)
    def command(*arguments: Any, **options: Any) -> Any:
        try:
            return main(*arguments, **options)
        except KeyboardInterrupt:  # typer would leave without a word
            print("stopped; run the same command again to go on", file=sys.stderr)
            raise typer.Exit(EXIT_STOPPED) from None

    app.command()(command)
    try:
        app()
    except UsageError as error:
        _fail(error, EXIT_USAGE)
    except JobError as error:
        _fail(error, EXIT_FAILED)


def say(error: Exception) -> None:
    """Print an error for the user: one line, or its traceback if they asked for that."""
    if os.environ.get("RESSHIFT_DEBUG") == "1":
        traceback.print_exception(error)
    else:
        print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)


def _fail(error: Exception, code: int) -> None:
    say(error)
    sys.exit(code)
