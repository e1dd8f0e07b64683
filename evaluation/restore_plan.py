"""What restore has to do: which images the arguments stand for, and where each result goes."""

import glob
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath

from infra import storage
from infra.errors import UsageError
from resshift.image_files import is_image_name


@dataclass(frozen=True)
class Job:
    """One image: where it comes from and where its result goes."""

    source: str
    target: str
    mask: str | None = None


def plan_jobs(
    inputs: Sequence[str], out: str, mask: str | None = None, ending: str = ".png"
) -> tuple[list[Job], list[str]]:
    """Expand the inputs to images; returns the jobs and one line for each input that does not exist.

    A folder's structure is kept below `out`; each name gets `ending` in place of its suffix, and two images that would
    have one name keep their suffix in it. Where `out` lies inside a folder or the fixed part of a glob, what it holds
    are results and no inputs. Raises UsageError if there is nothing to do, or if `out` would overwrite an input or a
    mask.
    """
    found: list[tuple[str, str]] = []  # (name below out, where it is)
    missing: list[str] = []
    for item in inputs:
        if _is_folder(item) and _place(item) == _place(out):
            raise UsageError(f"out '{out}': is the folder of the inputs; choose another --out, results/ in it for one")
        images = _expand(item)
        if not images:
            missing.append(f"{item}: {'holds no image' if _is_folder(item) else 'does not exist'}")
        elif _is_inside(out, _fixed_part(item)):
            images = [(name, url) for name, url in images if not _is_inside(url, out)]
            if not images:
                missing.append(f"{item}: holds no image but those in out '{out}'")
        found += images
    if not found:
        raise UsageError(f"input {'; '.join(missing)}; give image files, folders or quoted globs")
    found = _each_once(found)
    stems = [str(PurePosixPath(name).with_suffix("")) for name, _ in found]
    count = Counter(stems)
    mask_of = _masks(mask)
    jobs = []
    for (name, source), stem in zip(found, stems, strict=True):
        target = storage.join(out, (stem if count[stem] == 1 else name) + ending)
        jobs.append(Job(source, target, mask_of(stem)))
    _check_targets(jobs)
    return jobs, missing


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


def _fixed_part(item: str) -> str:
    """The folder an input names: itself, or of a glob what stands before the first wildcard."""
    if storage.is_s3(item) or storage.exists(item):
        return item
    parts = Path(item).parts
    return str(Path(*takewhile(lambda part: not glob.has_magic(part), parts)))


def _is_inside(url: str, folder: str) -> bool:
    """True if a place lies below a folder; the folder itself does not."""
    return _place(url).startswith(_place(folder).rstrip("/") + "/")


def _each_once(images: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The images without those that were named before, in whatever spelling."""
    once: dict[tuple[str, str], tuple[str, str]] = {}
    for name, url in images:
        once.setdefault((name, _place(url)), (name, url))
    return list(once.values())


def _is_folder(item: str) -> bool:
    if storage.is_s3(item):
        return not is_image_name(item) and storage.exists(item)
    return Path(item).expanduser().is_dir()


def _place(url: str) -> str:
    """The same text for the same file or folder, however it is written."""
    return url.rstrip("/") if storage.is_s3(url) else str(Path(storage.join(url)).resolve())


def _masks(mask: str | None) -> Callable[[str], str | None]:
    """Gives the mask of an image by its stem: the file itself, or the one called like the image in a folder of them."""
    if mask is None or not _is_folder(mask):
        return lambda _: mask
    files = [entry for entry in storage.list_files(mask) if is_image_name(entry.name)]
    found = {entry.name.rpartition(".")[0]: entry.url for entry in files}
    return lambda stem: found.get(stem) or storage.join(mask, f"{stem}.png")


def _check_targets(jobs: Sequence[Job]) -> None:
    read = {_place(job.source): "an input" for job in jobs}
    read |= {_place(job.mask): "a mask" for job in jobs if job.mask is not None}
    source_of: dict[str, str] = {}
    for job in jobs:
        if (what := read.get(_place(job.target))) is not None:
            raise UsageError(f"out: {job.target} is {what}; choose another --out folder")
        if (other := source_of.setdefault(job.target, job.source)) != job.source:
            raise UsageError(
                f"input {job.source}: its result would be {job.target}, as that of {other}; restore them into "
                "different --out folders"
            )
