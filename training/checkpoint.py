"""Checkpoints: OUT/checkpoints/step-000123/, whole or not there, for any number of processes.

    <engine>/weights.safetensors           the network's float32 weights
    <engine>/optimizer-<rank>.safetensors  the pieces of AdamW's moments that one process held
    state.safetensors                      what the trainer adds: EMA, counters
    COMPLETE.json                          written last: step, validation figure, size of each file, the recipe

In a folder a checkpoint is written under another name and renamed when it is whole. On S3 the marker is uploaded last,
and deleted first. A marker whose files are not all there in full size counts as none.

No random state is kept: data order, noise, timesteps, crops and dropout follow from seed, step and place in the batch.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra import storage
from infra.errors import JobError
from infra.version import code_version
from training.agreement import all_or_none, gather
from training.engine import Processes, barrier, from_main
from training.optimizer_state import read_moments, write_moments
from training.saved import (
    FORMAT,
    MARKER,
    UNFINISHED,
    Saved,
    best_of,
    copied_to,
    drop,
    drop_unmarked,
    quality,
    refuse_another_recipe,
    refuse_fewer_steps,
    whole_checkpoints,
)
from training.tensor_file import read_tree, write_tree

STATE = "state.safetensors"
WEIGHTS = "weights.safetensors"


class Checkpoints:
    """The checkpoints of one run: the newest `keep` of them, and the best in validation by `metric`."""

    def __init__(self, out: str, processes: Processes, recipe: Mapping[str, Any], keep: int, metric: str) -> None:
        self.url = storage.join(out, "checkpoints")
        self.processes = processes
        self.recipe = recipe
        self.keep = keep
        self.metric = metric

    def latest(self) -> Saved | None:
        """The newest whole checkpoint, None if there is none.

        Raises UsageError if another recipe made it, or if it has more steps than the recipe's run.
        """
        saved = None
        with all_or_none(self.processes):
            if self.processes.is_main:
                self._clear_unfinished()
                whole = whole_checkpoints(self.url, tell=lambda line: print(line, file=sys.stderr))
                saved = whole[-1] if whole else None
                if saved is not None:
                    refuse_another_recipe(saved, self.recipe)
                    refuse_fewer_steps(saved, self.recipe["training"]["num_steps"])
                    self._prune(whole)  # what a killed save had no time for
        found: Saved | None = from_main(self.processes, saved)
        return found

    def is_best(self, figure: float | None) -> bool:
        """Whether no checkpoint has a better validation figure. All processes must call this; False for None."""
        if figure is None:
            return False
        answer = False
        with all_or_none(self.processes):
            if self.processes.is_main:
                best = best_of(whole_checkpoints(self.url), self.metric)
                known = None if best is None else best.figure(self.metric)
                answer = best is None or quality(figure, self.metric) > quality(known, self.metric)
        return bool(from_main(self.processes, answer))

    def save(
        self, step: int, engines: Mapping[str, Any], state: Mapping[str, Any], figure: float | None = None
    ) -> None:
        """Write the checkpoint of `step`, whole or not at all, and drop those that are neither new nor best.

        engines: name -> DeepSpeed engine. state: nested mapping of tensors and plain values, the same in every process.
        figure: validation figure of these weights, if they were validated. All processes must call this. Raises
        JobError in all of them if one cannot write.
        """
        name = f"step-{step:06d}"
        remote = storage.is_s3(self.url)
        scratch = self._scratch("save") if remote else Path(storage.join(self.url, f"{UNFINISHED}{name}"))
        owner = self.processes.local_rank == 0 if remote else self.processes.is_main
        try:
            with all_or_none(self.processes):
                if owner:
                    _empty_folders(scratch, engines)
            with all_or_none(self.processes):
                self._write(scratch, engines, state)
            if remote:
                with all_or_none(self.processes):
                    self._upload(scratch, name)
            files = {file: size for part in gather(self.processes, _files(scratch)) for file, size in part.items()}
            marker = {
                "format": FORMAT,
                "step": step,
                "figure": figure,
                "metric": self.metric,
                "world_size": self.processes.world_size,
                "code": code_version(),
                "files": files,
                "recipe": self.recipe,
            }
            with all_or_none(self.processes):
                if self.processes.is_main:
                    self._publish(scratch, name, marker)
        finally:
            if owner:
                shutil.rmtree(scratch, ignore_errors=True)  # also makes room again when a disk is full
        barrier(self.processes)

    def load(self, saved: Saved, engines: Mapping[str, Any]) -> dict[str, Any]:
        """Put the engines back as they were and return the trainer's `state`.

        The checkpoint may come from another number of processes and another ZeRO stage.
        """
        with self._at_hand(saved) as folder, all_or_none(self.processes):
            for name, engine in engines.items():
                engine.module.load_state_dict(read_tree(folder / name / WEIGHTS))
                if engine.zero_optimization():
                    engine.optimizer.refresh_fp32_params()  # its masters are a copy of the network's weights
                read_moments(engine, folder / name)
            return read_tree(folder / STATE)

    @contextmanager
    def _at_hand(self, saved: Saved) -> Iterator[Path]:
        """The folder of a checkpoint, or of a copy on this node. All must leave the block together."""
        if not storage.is_s3(saved.url):
            yield Path(saved.url)
            return
        folder, owner = self._scratch("load"), self.processes.local_rank == 0
        try:
            with copied_to(folder, saved.url):
                with all_or_none(self.processes):
                    if owner:
                        shutil.rmtree(folder, ignore_errors=True)
                        for file in saved.marker["files"]:
                            storage.download(storage.join(saved.url, *file.split("/")), folder / file)
                yield folder
        finally:
            if owner:
                shutil.rmtree(folder, ignore_errors=True)

    def _write(self, scratch: Path, engines: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        for name, engine in engines.items():
            write_moments(engine, scratch / name, self.processes)
            if self.processes.is_main:
                write_tree(scratch / name / WEIGHTS, engine.module.state_dict())
        if self.processes.is_main:
            write_tree(scratch / STATE, state)

    def _upload(self, scratch: Path, name: str) -> None:
        """Each node uploads what its own processes wrote."""
        if self.processes.local_rank == 0:
            for file in _files(scratch):
                storage.upload(scratch / file, storage.join(self.url, name, *file.split("/")))

    def _publish(self, scratch: Path, name: str, marker: Mapping[str, Any]) -> None:
        if storage.is_s3(self.url):
            storage.write_json(storage.join(self.url, name, MARKER), marker)
        else:
            target = Path(self.url, name)
            with _disk_errors(target):
                storage.write_json(str(scratch / MARKER), marker)
                shutil.rmtree(target, ignore_errors=True)  # at most a damaged one of this step
                scratch.rename(target)
                _sync(target.parent)
        self._prune(whole_checkpoints(self.url))

    def _prune(self, whole: list[Saved]) -> None:
        best = best_of(whole, self.metric)
        for old in whole[: -self.keep]:
            if best is None or old.step != best.step:
                drop(old)

    def _clear_unfinished(self) -> None:
        if storage.is_s3(self.url):
            drop_unmarked(self.url)
            storage.clear_unfinished(self.url)
        else:
            for folder in Path(self.url).glob(f"{UNFINISHED}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _scratch(self, purpose: str) -> Path:
        """A place in the temporary folder, the same in all processes, and after a kill, so that nothing piles up."""
        run = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir(), f"resshift-{purpose}-{os.getuid()}-{run}")


def _empty_folders(scratch: Path, names: Iterable[str]) -> None:
    with _disk_errors(scratch):
        shutil.rmtree(scratch, ignore_errors=True)
        for name in names:
            (scratch / name).mkdir(parents=True)


def _files(folder: Path) -> dict[str, int]:
    """Files below a folder, with their sizes."""
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}


def _sync(folder: Path) -> None:
    """Make a rename in `folder` outlast a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JobError(
            f"{where}: the checkpoint cannot be written ({error.strerror or error}); make room or give another --out, "
            "and run the same command again"
        ) from error
