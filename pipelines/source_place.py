"""Where a source and the dataset made of it may lie: neither may become a part of the other."""

from pathlib import Path

from infra import storage
from infra.errors import UsageError
from pipelines.source import Source, is_list, is_tar


def check_outside(out: str, source: str, field: str) -> None:
    """Raise UsageError if `out` lies in a folder or prefix that is listed: its own files would be listed with it.

    `field` is what the user calls the source.
    """
    if is_list(source) or is_tar(source):
        return
    if _place(out).startswith(_place(source)):
        raise UsageError(
            f"out '{out}': lies in {field} '{source}', so the dataset would become a part of its own source; choose an "
            "--out beside it"
        )


def check_tars(out: str, source: Source) -> None:
    """Raise UsageError if a tar of the source lies among the shards of `out`: both would go by the same names."""
    shards = _place(storage.join(out, "shards"))
    for tar in source.spans.tars if source.spans is not None else ():
        if _place(tar).startswith(shards):
            raise UsageError(f"source tar '{tar}': lies among the shards of --out '{out}'; choose another --out")


def _place(url: str) -> str:
    """A folder, or a file, as text that begins with that of every folder it lies in."""
    return (url if storage.is_s3(url) else str(Path(storage.absolute(url)).resolve())).rstrip("/") + "/"
