"""Lists of image URIs: a text file with one per line, or a Parquet file with one per row."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra import storage
from infra.errors import UsageError

LIST_SUFFIXES = (".txt", ".parquet")
COLUMN = "uri"


def read_list(uri: str) -> Iterator[str]:
    """The URIs of a list in its order. Raises UsageError if the list cannot be read as what its ending says."""
    try:
        yield from _read_parquet(uri) if uri.lower().endswith(".parquet") else _read_text(uri)
    except OSError as error:  # of Parquet, a page that is damaged, too
        raise UsageError(f"source '{uri}': cannot be read ({_told(error)}); mend or remove it") from error


def check_urls(names: pa.LargeStringArray) -> None:
    """Raise UsageError for rows that are neither paths nor URLs that can be read."""
    for scheme in pc.unique(pc.extract_regex(names, r"^(?P<scheme>[^/]*://)").field(0)).to_pylist():
        if scheme:
            first = names.filter(pc.starts_with(names, scheme))[0].as_py()
            storage.is_s3(first)  # raises for a scheme that is not supported
    slips = pc.and_not(pc.match_substring_regex(names, "^(?i:s3):"), pc.match_substring_regex(names, "^s3://[^/]"))
    for name in names.filter(slips).slice(0, 1).to_pylist():
        storage.is_s3(name)  # raises for s3://, s3:/bucket and the like


def _read_text(uri: str) -> Iterator[str]:
    """Empty lines and those that begin with # are skipped."""
    with storage.open_read(uri) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                name = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()  # some editors begin with a mark
            except UnicodeDecodeError as error:
                raise UsageError(f"source '{uri}' line {number}: is not UTF-8 text; save the list as UTF-8") from error
            if name and not name.startswith("#"):
                yield name


def _read_parquet(uri: str) -> Iterator[str]:
    """The column `uri`, or the first one that holds strings."""
    with tempfile.TemporaryDirectory(prefix="list-") as folder:
        path = Path(folder, "list.parquet") if storage.is_s3(uri) else Path(storage.absolute(uri))
        if storage.is_s3(uri):
            storage.download(uri, path)
        try:
            with pq.ParquetFile(path) as file:
                column = _column(uri, file.schema_arrow)
                row = 0
                for batch in file.iter_batches(columns=[column]):
                    for name in batch.column(0).to_pylist():
                        if not name:
                            raise UsageError(f"source '{uri}' row {row}: column '{column}' is empty; remove that row")
                        yield name
                        row += 1
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise UsageError(f"source '{uri}': is not a readable Parquet file ({_told(error)})") from error


def _column(uri: str, schema: pa.Schema) -> str:
    texts = [column.name for column in schema if column.type in (pa.string(), pa.large_string(), pa.string_view())]
    if COLUMN in texts:
        return COLUMN
    if COLUMN in schema.names:
        raise UsageError(f"source '{uri}': column '{COLUMN}' holds {schema.field(COLUMN).type}; it must hold strings")
    if not texts:
        names = ", ".join(schema.names) or "none"
        raise UsageError(f"source '{uri}': no column holds strings (columns: {names}); name the URIs '{COLUMN}'")
    return texts[0]


def _told(error: Exception) -> str:
    """In one line: Arrow writes several."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())
