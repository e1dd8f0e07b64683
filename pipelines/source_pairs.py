"""Pairs that exist already: every HQ image of a source is matched with the LQ image of the same name."""

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from degradations.paired import name_of
from infra.errors import UsageError
from pipelines.source import CHUNK, Fault, Source, list_images


def match_lq(hq: Source, lq_dir: str) -> Source:
    """`hq` with the LQ images below `lq_dir` (a folder or s3:// prefix), matched by their path without its ending.

    An HQ without LQ, and one whose name is not the only one of its kind on either side, gets a fault: nothing is
    paired by order or guessed. LQ images without HQ are left alone. Raises UsageError if nothing matches.
    """
    lq = list_images(lq_dir)
    hq_names, lq_names = _without_endings(hq.names), _without_endings(lq.names)
    found = pc.index_in(hq_names, value_set=lq_names)
    if found.null_count == len(found):
        raise UsageError(
            f"degradation.lq_dir '{lq_dir}': no image there is named as one of '{hq.uri}' (there '{lq.names[0]}', here "
            f"'{hq.names[0]}'); only the endings may differ"
        )
    faults = dict(hq.faults)
    for names, side in ((hq_names, "HQ"), (lq_names, "LQ")):
        for i in np.flatnonzero(pc.is_in(hq_names, value_set=_ambiguous(names)).to_numpy(zero_copy_only=False)):
            faults[int(i)] = Fault("duplicate_key", f"several {side} images are named {hq_names[int(i)]}")
    for i in np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False)):
        faults.setdefault(int(i), Fault("no_lq", f"{lq_dir} holds no image of the same name"))
    digest = hashlib.sha256(f"{hq.digest} {lq.digest}".encode()).hexdigest()
    return replace(hq, digest=digest, faults=faults, lq_names=lq.names.take(found), lq_folder=lq_dir)


def _without_endings(names: pa.LargeStringArray) -> pa.LargeStringArray:
    chunks = [
        pa.array(map(name_of, names.slice(start, CHUNK).to_pylist()), pa.large_string())
        for start in range(0, len(names), CHUNK)
    ]
    return pa.chunked_array(chunks, pa.large_string()).combine_chunks()


def _ambiguous(names: pa.LargeStringArray) -> pa.Array:
    counts = pc.value_counts(names)
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))
