"""restore: images of any size and kind in, restored PNGs out. One image that fails does not stop the others."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from evaluation.image_files import LoadedImage, decode, decode_mask, encode_png, is_image_name
from infra import storage
from infra.errors import UsageError
from infra.models import fetch
from infra.progress import progress
from resshift.restorer import Restorer


@dataclass(frozen=True)
class RestoreOptions:
    """How to restore. Tiles are in output pixels."""

    seed: int = 0
    tile_size: int = 512
    tile_overlap: int = 64
    overwrite: bool = False


@dataclass(frozen=True)
class Job:
    """One image: where it comes from and where its result goes."""

    source: str
    target: str
    mask: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of all images. `failed` and `notes` hold one line each, naming the image."""

    restored: int
    skipped: int
    failed: tuple[str, ...]
    notes: tuple[str, ...]


def restore(
    model: str, inputs: Sequence[str], out: str, mask: str | None = None, options: RestoreOptions | None = None
) -> Outcome:
    """Restore images (files, folders, globs, s3:// URLs) with the model at a URI, into the folder `out`.

    Results that exist are kept unless `options.overwrite`. Raises UsageError for a model that does not exist, a mask
    the model has no use for (or needs), or no input at all; what cannot be restored is in the outcome's `failed`.
    """
    options = options or RestoreOptions()
    if options.tile_overlap > options.tile_size // 2:
        raise UsageError(f"tile-overlap: {options.tile_overlap} is more than half of tile-size {options.tile_size}")
    jobs, missing = plan_jobs(inputs, out, mask)
    restorer = load_restorer(model)
    restorer.tile_size, restorer.tile_overlap = options.tile_size, options.tile_overlap
    needs_mask = restorer.task == "inpainting"
    if needs_mask != (mask is not None):
        what = "needs one, white where pixels are to be filled in" if needs_mask else "takes none; leave it out"
        raise UsageError(f"mask: the model '{model}' ({restorer.task.replace('_', ' ')}) {what}")
    todo = [job for job in jobs if options.overwrite or not storage.exists(job.target)]
    failed, notes = list(missing), []
    with progress("restoring", total=len(todo), unit="images") as bar:
        for job in todo:
            try:
                notes += [f"{job.source}: {note}" for note in _restore_one(restorer, job, options)]
            except (ValueError, OSError) as error:
                failed.append(f"{job.source}: {' '.join(str(error).split())}")
            bar.advance(1, failed=len(failed))
    done = len(todo) - (len(failed) - len(missing))
    return Outcome(done, len(jobs) - len(todo), tuple(failed), tuple(notes))


def plan_jobs(inputs: Sequence[str], out: str, mask: str | None = None) -> tuple[list[Job], list[str]]:
    """Expand the inputs to images; returns the jobs and one line for each input that does not exist.

    A folder's structure is kept below `out`. Two images that would have one name keep their suffix in it. Raises
    UsageError if there is nothing to do, or if `out` would overwrite an input.
    """
    found: list[tuple[str, str]] = []  # (name below out, where it is)
    missing: list[str] = []
    for item in inputs:
        images = _expand(item)
        if not images:
            missing.append(f"{item}: {'holds no image' if _is_folder(item) else 'does not exist'}")
        found += images
    if not found:
        raise UsageError(f"input {'; '.join(missing)}; give image files, folders or quoted globs")
    found = list(dict.fromkeys(found))
    stems = [str(PurePosixPath(name).with_suffix("")) for name, _ in found]
    jobs = []
    for (name, source), stem in zip(found, stems, strict=True):
        target = storage.join(out, (stem if stems.count(stem) == 1 else name) + ".png")
        jobs.append(Job(source, target, _mask_of(mask, stem)))
    _check_targets(jobs)
    return jobs, missing


def load_restorer(model: str) -> Restorer:
    """The restorer at a model URI, on the GPU if there is one. Raises UsageError if it does not exist or fit."""
    try:
        return Restorer.load(fetch(model), device="cuda" if torch.cuda.is_available() else "cpu")
    except ValueError as error:
        raise error if isinstance(error, UsageError) else UsageError(f"model '{model}': {error}") from error


def restore_image(
    restorer: Restorer, image: LoadedImage, mask: np.ndarray | None, options: RestoreOptions
) -> np.ndarray:
    """Restore one image: uint8 (h, w, 3) -> (h*scale, w*scale, 3). Pixels outside the mask come back untouched.

    Raises ValueError if the mask has another size than the image.
    """
    if mask is not None and mask.shape != image.rgb.shape[:2]:
        raise ValueError(
            f"the mask is {mask.shape[1]}x{mask.shape[0]} and the image {image.rgb.shape[1]}x{image.rgb.shape[0]} "
            "pixels; they must be of one size"
        )
    if mask is None:
        return restorer(image.rgb, seed=options.seed)
    restored = restorer(image.rgb, seed=options.seed, mask=mask.astype(np.uint8) * 255)
    return np.where(mask[..., None], restored, image.rgb)


def _restore_one(restorer: Restorer, job: Job, options: RestoreOptions) -> tuple[str, ...]:
    image = decode(storage.read_bytes(job.source))
    mask = None if job.mask is None else _read_mask(job.mask)
    storage.write_bytes(job.target, encode_png(restore_image(restorer, image, mask, options), like=image))
    return image.notes


def _read_mask(url: str) -> np.ndarray:
    try:
        return decode_mask(storage.read_bytes(url))
    except FileNotFoundError as error:
        raise ValueError(f"the mask {url} does not exist") from error
    except ValueError as error:
        raise ValueError(f"the mask {url} {error}") from error


def _expand(item: str) -> list[tuple[str, str]]:
    """(name, location) of the images an input stands for; empty if there is none."""
    if _is_folder(item):
        return [(entry.name, entry.url) for entry in storage.list_files(item) if is_image_name(entry.name)]
    if storage.exists(item):
        return [(item.rstrip("/").rpartition("/")[2], item)]
    if storage.is_s3(item):
        return []
    paths = sorted(glob.glob(item, recursive=True))  # noqa: PTH207 (a pattern may be absolute; Path.glob's may not)
    return [(Path(path).name, path) for path in paths if Path(path).is_file()]


def _is_folder(item: str) -> bool:
    if storage.is_s3(item):
        return not is_image_name(item) and storage.exists(item)
    return Path(item).expanduser().is_dir()


def _mask_of(mask: str | None, stem: str) -> str | None:
    """The mask of an image: the file itself, or the one called like the image in a folder of masks."""
    if mask is None or not _is_folder(mask):
        return mask
    fitting = [entry.url for entry in storage.list_files(mask) if entry.name.rpartition(".")[0] == stem]
    return fitting[0] if fitting else storage.join(mask, f"{stem}.png")


def _check_targets(jobs: Sequence[Job]) -> None:
    sources = {str(Path(job.source).resolve()) for job in jobs if not storage.is_s3(job.source)}
    for job in jobs:
        if not storage.is_s3(job.target) and str(Path(job.target).resolve()) in sources:
            raise UsageError(f"out: {job.target} is an input; choose another --out folder")
