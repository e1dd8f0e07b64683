"""restore: images of any size and kind in, restored ones out. One image that fails does not stop the others."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from evaluation.image_output import FORMATS, losses, write_image
from evaluation.restore_plan import Job, plan_jobs
from infra import storage
from infra.errors import JobError, UsageError
from infra.memory import MEMORY_ERRORS, is_out_of_memory
from infra.models import fetch
from infra.progress import Bar, progress
from resshift.image_files import LoadedImage, decode, decode_mask, write_png
from resshift.precision import PRECISIONS, make_repeatable
from resshift.restorer import Restorer
from resshift.tiling import TILES_AT_ONCE


@dataclass(frozen=True)
class RestoreOptions:
    """How to restore.

    Tiles are in output pixels, and `batch_size` of them go through the networks together (None: what suits the device).
    `format` is a key of FORMATS, `suffix` is added to every name, `precision` is one of PRECISIONS.
    """

    seed: int = 0
    tile_size: int = 512
    tile_overlap: int = 64
    overwrite: bool = False
    format: str = "png"
    suffix: str = ""
    precision: str = "auto"
    batch_size: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of all images. `failed` and `notes` hold one line each, naming the image.

    `stopped` is what ended the work before all images were tried, if anything did: to be raised once the rest is told.
    """

    restored: int
    skipped: int
    failed: tuple[str, ...]
    notes: tuple[str, ...]
    stopped: JobError | None = None


def restore(
    model: str, inputs: Sequence[str], out: str, mask: str | None = None, options: RestoreOptions | None = None
) -> Outcome:
    """Restore images (files, folders, globs, s3:// URLs) with the model at a URI, into the folder `out`.

    Results that exist are kept unless `options.overwrite`. Raises UsageError for a model that does not exist, a mask
    the model has no use for (or needs), or no input at all; what cannot be restored is in the outcome's `failed`.
    A store that fails, and too little memory, end the work, for they would fail every image.
    """
    options = options or RestoreOptions()
    jobs, missing = plan(inputs, out, mask, options)
    restorer = load_restorer(model, options)
    needs_mask = restorer.task == "inpainting"
    if needs_mask != (mask is not None):
        what = "needs one, white where pixels are to be filled in" if needs_mask else "takes none; leave it out"
        raise UsageError(f"mask: the model '{model}' ({restorer.task.replace('_', ' ')}) {what}")
    todo = [job for job in jobs if options.overwrite or not storage.exists(job.target)]
    done = _restore_all(restorer, todo, options)
    return replace(done, skipped=len(jobs) - len(todo), failed=(*missing, *done.failed))


def plan(inputs: Sequence[str], out: str, mask: str | None, options: RestoreOptions) -> tuple[list[Job], list[str]]:
    """The jobs for `inputs`, and one line for each input that does not exist. Raises UsageError; see plan_jobs."""
    if options.tile_overlap > options.tile_size // 2:
        raise UsageError(f"tile-overlap: {options.tile_overlap} is more than half of tile-size {options.tile_size}")
    for name, value, valid in (("format", options.format, FORMATS), ("precision", options.precision, PRECISIONS)):
        if value not in valid:
            raise UsageError(f"{name}: '{value}' is unknown; choose one of {', '.join(valid)}")
    return plan_jobs(inputs, out, mask, options.suffix + FORMATS[options.format])


def load_restorer(model: str, options: RestoreOptions) -> Restorer:
    """The restorer at a model URI, on the GPU if there is one. Raises UsageError if it does not exist or fit."""
    make_repeatable()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        restorer = Restorer.load(fetch(model), device).prepare(options.precision)
    except ValueError as error:
        raise error if isinstance(error, UsageError) else UsageError(f"model '{model}': {error}") from error
    restorer.tile_size, restorer.tile_overlap = options.tile_size, options.tile_overlap
    restorer.batch_size = options.batch_size or TILES_AT_ONCE[device]
    return restorer


def _restore_all(restorer: Restorer, jobs: Sequence[Job], options: RestoreOptions) -> Outcome:
    """Restore all images, or as many as come before an error that is not one image's own."""
    failed: list[str] = []
    notes: list[str] = []
    restored = 0
    stopped: JobError | None = None
    with progress("restoring", total=len(jobs), unit="images") as bar:
        for job in jobs:
            try:
                notes += [f"{job.source}: {note}" for note in _restore_one(restorer, job, options, bar)]
                restored += 1
            except (JobError, *MEMORY_ERRORS) as error:
                if not (isinstance(error, JobError) or is_out_of_memory(error)):
                    raise
                untried = len(jobs) - restored - len(failed) - 1
                why = _why_stopped(error, restorer.batch_size, options.tile_size)
                stopped = JobError(f"{job.source}: {why}; images not tried: {untried}")
                stopped.__cause__ = error
                break
            except (ValueError, OSError) as error:
                failed.append(f"{job.source}: {_one_line(error)}")
            bar.advance(1, failed=len(failed))
    return Outcome(restored, 0, tuple(failed), tuple(notes), stopped)


def _why_stopped(error: Exception, batch_size: int, tile_size: int) -> str:
    if isinstance(error, JobError):
        return _one_line(error)
    return (
        f"memory does not hold {batch_size} tiles of {tile_size} pixels; lower --batch-size or --tile-size "
        "and run the same command again"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _restore_one(restorer: Restorer, job: Job, options: RestoreOptions, bar: Bar) -> tuple[str, ...]:
    """Restore one image, writing its result as its rows are done; returns notes. Raises ValueError or OSError.

    JobError and MEMORY_ERRORS are no fault of the image.
    """
    image = decode(storage.read_bytes(job.source))
    mask = None if job.mask is None else _read_mask(job.mask, image)
    height, width = (side * restorer.scale for side in image.rgb.shape[:2])
    rows = restorer.restore_rows(image.rgb, options.seed, mask, _tiles_shown(bar))
    if not _write(job.target, rows, (height, width), image, options):
        raise ValueError(f"{job.target} came to exist meanwhile; it is kept")
    return image.notes + losses(image, options.format)


def _write(
    target: str, rows: Iterator[np.ndarray], size: tuple[int, int], like: LoadedImage, options: RestoreOptions
) -> bool:
    """Write a result so that it appears whole or not at all; False if somebody else's stands there."""
    if options.format == "png":
        with storage.open_write(target, if_absent=not options.overwrite) as sink:
            write_png(sink, rows, size, like)
        return bool(sink.created)
    with tempfile.TemporaryDirectory(prefix="restored-") as folder:
        local = Path(folder, "image")
        write_image(local, rows, size, like, options.format)
        with local.open("rb") as source, storage.open_write(target, if_absent=not options.overwrite) as sink:
            while data := source.read(1 << 20):
                sink.write(data)
        return bool(sink.created)


def _read_mask(url: str, image: LoadedImage) -> np.ndarray:
    """The mask of an image, uint8 (h, w), 255 where it is unknown. Raises ValueError."""
    try:
        mask = decode_mask(storage.read_bytes(url))
    except FileNotFoundError as error:
        raise ValueError(f"the mask {url} does not exist") from error
    except ValueError as error:
        raise ValueError(f"the mask {url} {error}") from error
    if mask.shape != image.rgb.shape[:2]:
        raise ValueError(
            f"the mask is {mask.shape[1]}x{mask.shape[0]} and the image {image.rgb.shape[1]}x{image.rgb.shape[0]} "
            "pixels; they must be of one size"
        )
    return mask.astype(np.uint8) * 255


def _tiles_shown(bar: Bar) -> Callable[[int, int], None]:
    """Shows the tiles of one image beside the count of images."""
    done = 0

    def on_tiles(count: int, total: int) -> None:
        nonlocal done
        done += count
        bar.advance(0, tile=f"{done}/{total}")

    return on_tiles
