"""Checkpoints that lie there: which are whole, whether they belong to this recipe, and dropping them."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import storage
from infra.errors import JobError, UsageError
from infra.recipe import difference

FORMAT = 3
MARKER = "COMPLETE.json"
UNFINISHED = ".tmp-"

# metric -> whether more of it is better
METRICS = {"lpips_alex": False, "psnr_y": True}

# A run may go on with other values of these: they change when it stops, what it keeps and reports, and how the same
# arithmetic is laid out over processes and memory, but not what is learned from a step. `num_steps` is one of them so
# that a run can be made longer or cut short; the cosine of the learning rate then ends at the new last step.
FREE_KEYS = frozenset(
    f"training.{name}"
    for name in (
        "num_steps",
        "micro_batch_size",
        "zero_stage",
        "compile",
        "channels_last",
        "checkpoint_every",
        "keep_checkpoints",
        "best_metric",
        "log_every",
        "validate_every",
        "max_bad_steps",
        "loader_workers",
        "shard_cache_gib",
    )
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

    def figure(self, metric: str) -> float | None:
        """The validation figure of its averaged weights, None if they were not validated by this metric."""
        value = self.marker.get("figure")
        return float(value) if value is not None and self.marker["metric"] == metric else None


def whole_checkpoints(url: str, tell: Callable[[str], None] = lambda line: None) -> list[Saved]:
    """The checkpoints below `url` whose files are all there in full size, oldest first; `tell` hears of the others."""
    sizes = {entry.name: entry.size for entry in storage.list_files(url) if not entry.name.startswith(UNFINISHED)}
    found = []
    for name in sizes:
        folder, _, file = name.rpartition("/")
        if file != MARKER:
            continue
        saved = Saved(storage.join(url, folder), storage.read_json(storage.join(url, name)))
        wrong = [part for part, size in saved.marker["files"].items() if sizes.get(f"{folder}/{part}") != size]
        if wrong:
            tell(f"{saved.url}: not used, {wrong[0]} is missing or cut short; going on from an earlier checkpoint")
        else:
            found.append(saved)
    return sorted(found, key=lambda saved: saved.step)


def quality(figure: float | None, metric: str) -> float:
    """A validation figure as a number of which more is better; NaN, which an untrained network may score, is worst."""
    if figure is None or math.isnan(figure):
        return -math.inf
    return figure if METRICS[metric] else -figure


def best_of(whole: Sequence[Saved], metric: str) -> Saved | None:
    """The best of these in validation by `metric`, None if none of them was validated by it."""
    validated = [saved for saved in whole if saved.figure(metric) is not None]
    return max(validated, key=lambda saved: quality(saved.figure(metric), metric), default=None)


def refuse_another_recipe(saved: Saved, recipe: Mapping[str, Any]) -> None:
    """Raise UsageError, with the differences, if `saved` is not of `recipe` (FREE_KEYS aside)."""
    if saved.marker.get("format") != FORMAT:
        raise UsageError(
            f"{saved.url}: is of format {saved.marker.get('format', 1)}, this version reads {FORMAT}; give another "
            "--out to start anew"
        )
    changed = difference(saved.marker["recipe"], json.loads(json.dumps(recipe)))
    changed = [line for line in changed if line.partition(":")[0] not in FREE_KEYS]
    if changed:
        shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise UsageError(
            f"{saved.url} belongs to another recipe ({shown}); give the same recipe to go on, or another --out to "
            "start anew"
        )


def refuse_fewer_steps(saved: Saved, num_steps: int) -> None:
    """Raise UsageError if `saved` has gone further than a run of `num_steps`, which would pass for the shorter one."""
    if saved.step > num_steps:
        raise UsageError(
            f"num_steps: {num_steps} is less than the {saved.step} steps that {saved.url} has done; give at "
            f"least {saved.step} to go on, or another --out to start anew"
        )


@contextmanager
def copied_to(copy: Path, url: str) -> Iterator[None]:
    """Errors about `copy` on this machine name what it is a copy of, which is what can be mended."""
    try:
        yield
    except JobError as error:
        raise JobError(str(error).replace(str(copy), url)) from error


def drop(saved: Saved) -> None:
    """Delete a checkpoint: its marker first, from then on it is none."""
    storage.delete(storage.join(saved.url, MARKER))
    if storage.is_s3(saved.url):
        for entry in storage.list_files(saved.url):
            storage.delete(entry.url)
    else:
        shutil.rmtree(Path(saved.url), ignore_errors=True)


def drop_unmarked(url: str) -> None:
    """Delete what saves that were killed left below `url` on S3: files of folders without a marker."""
    entries = list(storage.list_files(url))
    marked = {entry.name.partition("/")[0] for entry in entries if entry.name.endswith("/" + MARKER)}
    for entry in entries:
        if entry.name.partition("/")[0] not in marked:
            storage.delete(entry.url)
