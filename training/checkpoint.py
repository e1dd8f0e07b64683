"""Checkpoints: OUT/checkpoints/step-000123/, whole or not there.

    engine/...        what DeepSpeed saves: weights, optimizer state, one file per process under ZeRO
    state.pt          what the trainer adds (EMA, counters)
    rng-<rank>.pt     random state of one process
    COMPLETE.json     written last: step, process count, size of each file, the recipe. Without it nothing exists

On S3 a checkpoint is written to a local folder first and uploaded, the marker last.
"""

import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra import storage
from infra.errors import JobError, UsageError
from infra.recipe import difference
from training.engine import Processes, barrier, from_main

MARKER = "COMPLETE.json"
UNFINISHED = ".tmp-"

# Changing these does not make it another run.
FREE_KEYS = frozenset(
    [
        "num_steps",
        "micro_batch_size",
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
        "compile",
        "max_bad_steps",
        "validate_every",
    ]
)


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint: its folder or URL, and its marker."""

    url: str
    marker: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.marker["step"])


class Checkpoints:
    """The checkpoints of one run, newest `keep` of them."""

    def __init__(self, out: str, processes: Processes, recipe: Mapping[str, Any], zero_stage: int, keep: int) -> None:
        self.url = storage.join(out, "checkpoints")
        self.processes = processes
        self.recipe = recipe
        self.zero_stage = zero_stage
        self.keep = keep

    def latest(self) -> Saved | None:
        """The newest whole checkpoint, None if there is none. Raises UsageError if another recipe made it."""
        found = self._all() if self.processes.is_main else []
        self._clear_unfinished()
        saved: Saved | None = from_main(self.processes, found[-1] if found else None)
        if saved is not None:
            self._refuse_another_recipe(saved)
        return saved

    def save(self, step: int, engines: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write the checkpoint of `step`, whole or not at all, and drop the oldest beyond `keep`.

        engines: name -> DeepSpeed engine. state: tensors and plain values, the same in every process. All processes
        must call this.
        """
        name = f"step-{step:06d}"
        if storage.is_s3(self.url):
            scratch = self._scratch("save")
        else:
            scratch = Path(storage.join(self.url, f"{UNFINISHED}{name}"))
        if self.processes.local_rank == 0:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        barrier(self.processes)
        try:
            for engine_name, engine in engines.items():
                engine.save_checkpoint(str(scratch), tag=engine_name, save_latest=False)
            torch.save(torch.get_rng_state(), scratch / f"rng-{self.processes.rank}.pt")
            if self.processes.is_main:
                torch.save(dict(state), scratch / "state.pt")
        except OSError as error:
            raise JobError(f"{scratch}: the checkpoint cannot be written ({error.strerror or error})") from error
        barrier(self.processes)
        self._publish(scratch, name, step)
        barrier(self.processes)

    def load(self, saved: Saved, engines: Mapping[str, Any]) -> dict[str, Any]:
        """Put the engines and the random state back as they were and return the trainer's `state`."""
        count = int(saved.marker["world_size"])
        if count != self.processes.world_size and saved.marker["zero_stage"] != 0:
            raise UsageError(
                f"checkpoint {saved.url} was saved by {count} processes with ZeRO {saved.marker['zero_stage']}, this "
                f"run has {self.processes.world_size}; start {count} processes, or give another --out"
            )
        folder = self._fetch(saved)
        for engine_name, engine in engines.items():
            engine.load_checkpoint(str(folder), tag=engine_name)
        own_rng = folder / f"rng-{self.processes.rank}.pt"
        if own_rng.exists():
            torch.set_rng_state(torch.load(own_rng, weights_only=True))
        state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        barrier(self.processes)
        if storage.is_s3(self.url) and self.processes.local_rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        return state

    def _all(self) -> list[Saved]:
        markers = [
            entry for entry in storage.list_files(self.url, suffix=MARKER) if not entry.name.startswith(UNFINISHED)
        ]
        saved = [Saved(storage.join(self.url, m.name.split("/")[0]), storage.read_json(m.url)) for m in markers]
        return sorted(saved, key=lambda one: one.step)

    def _clear_unfinished(self) -> None:
        if self.processes.is_main and not storage.is_s3(self.url):
            for folder in Path(self.url).glob(f"{UNFINISHED}*"):
                shutil.rmtree(folder, ignore_errors=True)
        barrier(self.processes)

    def _refuse_another_recipe(self, saved: Saved) -> None:
        changed = difference(saved.marker["recipe"], json.loads(json.dumps(self.recipe)))
        changed = [line for line in changed if line.split(":")[0].rpartition(".")[2] not in FREE_KEYS]
        if changed:
            raise UsageError(
                f"{saved.url} belongs to another recipe ({'; '.join(changed[:5])}); "
                "give the same recipe to go on, or another --out to start anew"
            )

    def _publish(self, scratch: Path, name: str, step: int) -> None:
        target = storage.join(self.url, name)
        files = {p.relative_to(scratch).as_posix(): p.stat().st_size for p in sorted(scratch.rglob("*")) if p.is_file()}
        remote = storage.is_s3(self.url)
        if remote and self.processes.local_rank == 0:  # each node holds what its own processes wrote
            for file in files:
                storage.upload(scratch / file, storage.join(target, *file.split("/")))
        barrier(self.processes)
        if self.processes.is_main:
            marker = {
                "step": step,
                "world_size": self.processes.world_size,
                "zero_stage": self.zero_stage,
                "files": files,
                "recipe": self.recipe,
            }
            if remote:
                storage.write_json(storage.join(target, MARKER), marker)
            else:
                # Renaming makes the whole folder appear at once; the marker is there for readers of either kind of URL.
                storage.write_json(storage.join(str(scratch), MARKER), marker)
                shutil.rmtree(target, ignore_errors=True)
                scratch.rename(target)
            for old in self._all()[: -self.keep]:
                self._drop(old)
        if remote and self.processes.local_rank == 0:
            shutil.rmtree(scratch, ignore_errors=True)

    def _drop(self, saved: Saved) -> None:
        storage.delete(storage.join(saved.url, MARKER))  # first: from here on it is no checkpoint
        for file in saved.marker["files"]:
            storage.delete(storage.join(saved.url, *file.split("/")))
        if not storage.is_s3(saved.url):
            shutil.rmtree(saved.url, ignore_errors=True)

    def _fetch(self, saved: Saved) -> Path:
        if not storage.is_s3(saved.url):
            return Path(saved.url)
        cache = self._scratch("load")
        if self.processes.local_rank == 0:
            storage.local_folder(saved.url, cache)
        barrier(self.processes)
        return cache

    def _scratch(self, purpose: str) -> Path:
        """A new name in the temporary folder, the same in all processes."""
        name = from_main(self.processes, f"resshift-{purpose}-{uuid.uuid4().hex[:12]}")
        return Path(tempfile.gettempdir(), name)
