"""Samples of one shard at any place, for readers that go through it in another order than it was written.

Only the members that are asked for are read: neither the samples between them nor their other fields.
"""

import hashlib
import os
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import JobError
from pipelines.dataset import decode_sample, members_of
from pipelines.shard import CommitRecord, remedy, tar_url


@dataclass(frozen=True)
class Span:
    """Where a member's bytes lie in the tar."""

    offset: int
    size: int


class ShardReader:
    """An open shard. Threads may share it, and it stays readable when its file is removed meanwhile."""

    def __init__(self, url: str, record: CommitRecord, path: Path) -> None:
        """Open the copy at `path` of the shard that `record` commits to the dataset at `url`.

        Raises FileNotFoundError; JobError if the file is not what was committed.
        """
        self.url, self.record = url, record
        self._file = path.open("rb")
        size = os.fstat(self.descriptor).st_size
        if size != record.bytes:
            raise JobError(
                f"{tar_url(url, record)}: has {size} bytes, its record says {record.bytes}; {remedy(url, record)}"
            )
        self._samples = list(self._index().items())
        if len(self._samples) != record.num_samples:
            raise JobError(
                f"{url} shard {record.shard}: holds {len(self._samples)} samples, its record says "
                f"{record.num_samples}; {remedy(url, record)}"
            )

    @property
    def descriptor(self) -> int:
        """Of the open file."""
        return self._file.fileno()

    def sample(self, index: int, fields: Collection[str]) -> dict[str, Any]:
        """The sample at a place in the order of keys, decoded, with these fields; see pipelines.dataset."""
        key, spans = self._samples[index]
        wanted = members_of(fields)
        members = {name: self._read(span) for name, span in spans.items() if name in wanted}
        return decode_sample(self.url, key, members, fields)

    def sha256(self) -> str:
        """Of the whole file."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def _read(self, span: Span) -> bytes:
        return os.pread(self.descriptor, span.size, span.offset)  # leaves the position alone: threads share it

    def _index(self) -> dict[str, dict[str, Span]]:
        samples: dict[str, dict[str, Span]] = {}
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                for member in tar:
                    key, _, name = member.name.partition(".")
                    samples.setdefault(key, {})[name] = Span(member.offset_data, member.size)
        except tarfile.TarError as error:
            location = tar_url(self.url, self.record)
            raise JobError(f"{location}: damaged ({error}); {remedy(self.url, self.record)}") from error
        return samples
