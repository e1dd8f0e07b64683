"""How this process's C library deals with memory that was given back."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_FROM_HEAP = 32 << 20  # the most that glibc accepts
_KEPT = 256 << 20


def keep_freed_memory() -> bool:
    """Let malloc keep up to 256 MiB of freed memory instead of returning it to the system at once.

    Image code allocates and frees the same few megabytes for every image. glibc hands them back each time, and the
    next image pays for fetching and clearing every page again, which may cost more than the arithmetic
    (benchmarks/degradations.md). Blocks above 32 MiB are still returned. For processes of our own, such as workers:
    it changes the whole process. True if the C library took it; False where it is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
