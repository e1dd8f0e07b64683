"""Shards as open local files: read in place from a folder, through a cache on this node's disk from S3."""

import os
import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from infra import storage
from infra.errors import JobError
from pipelines.dataset import Dataset
from pipelines.shard import CommitRecord, remedy, tar_url
from pipelines.shard_reader import ShardReader
from resshift.perceptual_assets import cache_folder

FETCHERS = 2
ABANDONED_SECONDS = 3600.0  # since anything was written to an unfinished copy


class ShardFiles:
    """Opens shards in the background when they are asked for, and lets go of them when they are no longer wanted.

    Copies of remote shards are named by their content and shared by the processes of a node and by later runs. When
    they take more than `cache_bytes`, those unused for longest are removed (one that is open stays readable).
    """

    def __init__(self, dataset: Dataset, cache_bytes: int) -> None:
        self.dataset = dataset
        self.cache_bytes = cache_bytes
        self.folder = cache_folder() / "shards"
        self._pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="shard")
        self._open: dict[int, Future[ShardReader]] = {}

    def want(self, shards: Collection[int]) -> None:
        """Start opening these shards, first ones first, and forget all others."""
        self._open = {shard: self._open.get(shard) or self._pool.submit(self._reader, shard) for shard in shards}

    def reader(self, shard: int) -> ShardReader:
        """A wanted shard; waits for it. Raises JobError if it cannot be had."""
        return self._open[shard].result()

    def close(self) -> None:
        """Stop fetching."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _reader(self, shard: int) -> ShardReader:
        record, location = self.dataset.shards[shard], tar_url(self.dataset.url, self.dataset.shards[shard])
        try:
            if not storage.is_s3(location):
                return ShardReader(self.dataset.url, record, Path(location.removeprefix("file://")).expanduser())
            return self._cached(record, location)
        except FileNotFoundError as error:
            raise JobError(
                f"{location}: is missing although it was committed; {remedy(self.dataset.url, record)}"
            ) from error

    def _cached(self, record: CommitRecord, location: str) -> ShardReader:
        copy = self.folder / f"{record.sha256}.tar"
        fetched = False
        while True:
            try:
                reader = ShardReader(self.dataset.url, record, copy)
                break
            except FileNotFoundError:  # not here yet, or another process has just made room
                storage.download(location, copy)
                fetched = True
        os.utime(reader.descriptor)
        if fetched:
            if reader.sha256() != record.sha256:
                copy.unlink(missing_ok=True)
                raise JobError(f"{location}: sha256 differs from its record; {remedy(self.dataset.url, record)}")
            self._make_room()
        return reader

    def _make_room(self) -> None:
        for path in self.folder.glob(f"{storage.TEMPORARY}*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:  # its process was killed
                    path.unlink()
        copies = []
        for path in self.folder.glob("*.tar"):
            with suppress(FileNotFoundError):  # removed by another process since it was listed
                copies.append((path.stat().st_mtime, path.stat().st_size, path))
        taken = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies):
            if taken <= self.cache_bytes:
                return
            path.unlink(missing_ok=True)
            taken -= size
