"""Pairs that exist already: every HQ image of a source is matched with the LQ image of the same name."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from degradations.paired import unmarked
from infra import storage
from infra.errors import UsageError
from pipelines.source import CHUNK, Fault, Source, list_images

ENDING = re.compile(r"(?<=[^/])\.[^./]+$")


def match_lq(hq: Source, lq_dir: str) -> Source:
    """`hq` with the LQ images below `lq_dir` (a folder or s3:// prefix), matched by their path without its ending.

    Where no such path is on both sides, endings as `_HR` and `_LR4` or `x4` are left out, too (`paired.unmarked`). An
    HQ without LQ, and one whose name is not the only one of its kind on either side, gets a fault: nothing is paired by
    order or guessed. LQ images without HQ are left alone. Raises UsageError if nothing matches.
    """
    lq = list_images(lq_dir)
    found, several_lq = _matched(hq, lq, bare=False)
    if (found < 0).all():
        found, several_lq = _matched(hq, lq, bare=True)
    if (found < 0).all():
        raise UsageError(
            f"degradation.lq_dir '{lq_dir}': no image there is named as one of '{hq.uri}' (there '{lq.names[0]}', here "
            f"'{hq.names[0]}'); only the endings may differ, such as .png, _HR and _LR4, x4"
        )
    takers = np.bincount(found[found >= 0], minlength=lq.num_images)
    faults = dict(hq.faults)
    for i in np.flatnonzero((found < 0) | (takers[found] > 1) | np.isin(found, list(several_lq))):
        if found[i] < 0:
            faults[int(i)] = Fault("no_lq", f"{lq_dir} holds no image of the same name")
        else:
            side = "HQ" if takers[found[i]] > 1 else "LQ"
            faults[int(i)] = Fault("duplicate_key", f"several {side} images have this name, but for its ending")
    digest = hashlib.sha256(f"{hq.digest} {lq.digest}".encode()).hexdigest()
    lq_names = lq.names.take(pa.array(found, mask=found < 0))
    assert lq.sizes is not None, "list_images takes folders only, of which they are known"
    lq_sizes = lq.sizes[found]  # any at all where there is no LQ: nobody reads it
    return replace(
        hq, digest=digest, faults=faults, lq_names=lq_names, lq_folder=storage.absolute(lq_dir), lq_sizes=lq_sizes
    )


def _matched(hq: Source, lq: Source, *, bare: bool) -> tuple[np.ndarray, set[int]]:
    """For every HQ the place of its LQ, or -1; and the places of LQ images whose name is not the only one."""
    place_of: dict[str, int] = {}
    several = {place_of[stem] for i, stem in enumerate(stems(lq.names, bare)) if place_of.setdefault(stem, i) != i}
    return np.fromiter((place_of.get(stem, -1) for stem in stems(hq.names, bare)), np.int64, hq.num_images), several


def stems(names: pa.LargeStringArray, bare: bool = False) -> Iterator[str]:
    """What `degradations.paired.name_of` makes of every name, quicker; with `bare`, `unmarked` of that."""
    for start in range(0, len(names), CHUNK):
        for name in names.slice(start, CHUNK).to_pylist():
            stem = ENDING.sub("", name)
            yield unmarked(stem) if bare else stem
