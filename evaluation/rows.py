"""The per-image rows of an evaluation: one Parquet file per shard, one row per image and method.

A shard whose file exists is done. Files are written in one piece, so a file that exists is whole.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.metrics import METRICS
from infra import storage
from infra.errors import JobError

# The values of the column `method`, besides the names of other methods whose outputs were measured.
MODEL, BICUBIC, CHAMPION = "model", "bicubic", "champion"
OK, FAILED = "ok", "failed"  # the values of the column `status`

SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("key", pa.string()),  # sample key, unique in the test set
        ("group", pa.string()),  # images of one group stem from one photo
        ("method", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),  # why it failed, one line
        ("height", pa.int32()),  # of the HQ image, pixels
        ("width", pa.int32()),
        ("seconds", pa.float64()),  # to restore this image; null for images that were restored elsewhere
        ("device", pa.string()),  # what it ran on
        ("image", pa.string()),  # the restored image, relative to the folder of the evaluation that made it
        ("record", pa.string()),  # how the LQ image was made, JSON
        *((name, pa.float64()) for name in METRICS),
    ]
)


def rows_url(out: str, shard: str) -> str:
    """Where the rows of a shard stand."""
    return storage.join(out, "rows", f"{shard}.parquet")


def encode_rows(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as the bytes of a Parquet file; missing columns become null."""
    complete = [{name: row.get(name) for name in SCHEMA.names} for row in rows]
    return _encode(pa.Table.from_pylist(complete, schema=SCHEMA))


def encode_frame(rows: pd.DataFrame) -> bytes:
    """A frame of rows as the bytes of a Parquet file."""
    return _encode(pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False))


def decode_rows(data: bytes) -> pd.DataFrame:
    """The bytes of a Parquet file as a frame with the columns of SCHEMA; a metric that came later is null.

    Raises ValueError in one line if they are none.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:  # which of them depends on what is damaged
        raise ValueError(f"is damaged ({' '.join(str(error).split())})") from error
    return table.to_pandas().reindex(columns=SCHEMA.names)


def read_rows(out: str, shards: Sequence[str]) -> pd.DataFrame:
    """The rows of all shards, ordered by image. Raises FileNotFoundError if one is not done, JobError if damaged."""
    frames = [_read_shard(rows_url(out, shard)) for shard in shards]
    return pd.concat(frames, ignore_index=True).sort_values(["key", "method"], ignore_index=True)


def _read_shard(url: str) -> pd.DataFrame:
    try:
        return decode_rows(storage.read_bytes(url))
    except ValueError as error:
        raise JobError(f"{url} {error}; delete it to have it made again") from error


def finished_shards(out: str) -> set[str]:
    """Names of the shards whose rows are written."""
    return {entry.name.removesuffix(".parquet") for entry in storage.list_files(storage.join(out, "rows"), ".parquet")}


def _encode(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
