"""Check a dataset against its plan: checksums, counts, decodability, doubled keys."""

from typing import Annotated

import typer

from infra.cli import WorkersOption, run
from infra.errors import JobError


def main(
    url: Annotated[str, typer.Argument(help="Folder or s3:// prefix of a dataset.", show_default=False)],
    workers: WorkersOption = None,
) -> None:
    """Check a dataset against its plan: checksums, counts, decodability, doubled keys."""
    from pipelines.verification import verify  # late: --help is answered at once

    findings = verify(url, workers)
    for fault in findings.faults:
        print(fault)
    if findings.faults:
        raise JobError(f"{url}: {len(findings.faults)} faults found; remove the shards named above and make them again")
    print(f"{url}: {findings.num_samples} samples in {findings.num_shards} shards, all as planned")


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
