"""Folders behind infra.storage: files that appear whole or not at all, listings in the order of whole paths."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.errors import JobError

TEMPORARY = ".tmp-"


class DiskWriter:
    """Writes beside its target under a temporary name; `finish` renames. Folders above the target are made."""

    def __init__(self, path: Path, if_absent: bool) -> None:
        self.path, self.if_absent = path, if_absent
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
            os.fchmod(handle, 0o644)
            self.temporary, self.file = Path(name), os.fdopen(handle, "wb")

    def write(self, data: Any) -> None:
        with disk_errors(self.path):
            self.file.write(data)

    def finish(self) -> bool:
        """Make the file appear. False if it was to be absent and another writer was first."""
        with disk_errors(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            try:
                if self.if_absent:
                    os.link(self.temporary, self.path)  # unlike replace, this fails when the target exists
                else:
                    self.temporary.replace(self.path)
            except FileExistsError:
                return False
            except FileNotFoundError as error:
                raise JobError(
                    f"{self.path}: this write was cleared away by another job; run the same command again"
                ) from error
            finally:
                self.temporary.unlink(missing_ok=True)
        return True

    def abort(self) -> None:
        """Leave nothing behind."""
        self.temporary.unlink(missing_ok=True)
        try:
            self.file.close()  # what it still buffers may find the disk as full as the write that failed
        except OSError as error:
            if error.errno not in FULL:
                raise


def list_folder(folder: str, suffix: str, above: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(path relative to the first folder, entry) of every file, in the order of these paths.

    Folders compare as "name/", so that walking them one by one gives the order of the whole paths. Links are followed;
    one that leads to a folder above itself is a JobError, as is a folder that cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name + "/" * entry.is_dir(), entry.path, entry) for entry in found)
    except OSError as error:
        raise JobError(f"{folder}: cannot be listed ({error.strerror}); mend or remove it") from error
    for name, path, entry in entries:
        if name.endswith("/"):
            if entry.is_symlink() and Path(folder).resolve().is_relative_to(Path(path).resolve()):
                raise JobError(f"{path}: is a link to a folder above itself; remove it")
            yield from list_folder(path, suffix, above + name)
        elif name.endswith(suffix) and not name.startswith(TEMPORARY):
            yield above + name, entry


def clear_temporaries(folder: Path) -> int:
    """Remove what killed writers left below a folder; returns how many files."""
    pieces = [path for path in folder.rglob(f"{TEMPORARY}*") if path.is_file()]
    for path in pieces:
        path.unlink(missing_ok=True)
    return len(pieces)


@contextmanager
def read_errors(place: str) -> Iterator[None]:
    """Turn what keeps a file from being read into one clear JobError; that it is not there stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise JobError(
            f"{place}: cannot be read ({error.strerror}); correct the path, its rights or its disk"
        ) from error


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk and a place that cannot be written into one clear JobError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise JobError(f"{path}: {error.strerror}; free some space and run the same command again") from error
        raise JobError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
