"""The images inside a tar by their place, so that a worker reads those it needs and nothing else.

Only the headers are read, one after the other: on S3 that is a small request per member.
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from infra import storage
from infra.errors import UsageError

HEADER_BYTES = 4096  # read at once on S3: a member's header, with its extended one


@dataclass(frozen=True, slots=True)
class TarMember:
    """An image in a tar: its `size` bytes stand from `offset` on. `fault`: (reason, detail) why it cannot be used."""

    name: str
    offset: int
    size: int
    fault: tuple[str, str] | None = None


def index_tar(url: str, size: int, suffixes: tuple[str, ...]) -> Iterator[TarMember]:
    """The members of the tar at `url` (`size` bytes) whose names end in one of `suffixes`, in their order.

    As in WebDataset, what stands before the first dot of the file name is the key of a sample: a second image of one
    key is a fault, and so is a link, which holds no bytes of its own. Raises UsageError if the tar is damaged or cut
    off: nobody knows what is missing then.
    """
    seen: dict[str, str] = {}
    with _open(url, size) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                    is_link = member.islnk() or member.issym()
                    if not (member.isfile() or is_link) or not member.name.lower().endswith(suffixes):
                        continue
                    folder, slash, base = member.name.rpartition("/")
                    key = folder + slash + base.partition(".")[0]
                    fault = ("duplicate_key", f"the tar holds {seen[key]} of the same key") if key in seen else None
                    if is_link:
                        how = "tar --dereference --hard-dereference"
                        fault = ("link", f"leads to {member.linkname}; pack it with {how}")
                    seen.setdefault(key, member.name)
                    yield TarMember(member.name, member.offset_data, member.size, fault)
        except tarfile.TarError as error:
            raise UsageError(f"source tar '{url}': is damaged or no tar ({error}); replace it") from error


def _open(url: str, size: int) -> BinaryIO:
    if not storage.is_s3(url):
        return storage.open_read(url)
    return cast(BinaryIO, io.BufferedReader(_Ranges(url, size), HEADER_BYTES))


class _Ranges(io.RawIOBase):
    """A stored file of `size` bytes that can be sought in; every read is a request of its own."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self.place = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self.size - self.place)
        if wanted <= 0:
            return 0
        data = storage.read_range(self.url, self.place, wanted)
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)
