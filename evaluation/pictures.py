"""Which images the report shows, and their pixels: read again from the test set and from what was restored."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.evaluator import bicubic
from evaluation.pair_set import Pair, PairSet, read_pairs
from evaluation.report import HQ, LQ, Picture
from evaluation.rows import OK
from infra import storage
from resshift.image_files import decode_rgb

BEST_SHARE = 0.25  # of the images shown; the others are the worst


def choose_keys(ranking: Sequence[str], count: int) -> list[str]:
    """The keys to show from a ranking (worst first): mostly the worst, then some of the best, never one twice."""
    if count >= len(ranking):
        return list(ranking)
    best = int(count * BEST_SHARE)
    return [*ranking[: count - best], *ranking[len(ranking) - best :]]


def collect_pictures(
    pairs: PairSet, rows: pd.DataFrame, summary: Mapping[str, Any], out: str, count: int
) -> list[Picture]:
    """The pictures of the report, worst first. Empty if restored images were not saved."""
    stored = rows[(rows["status"] == OK) & rows["image"].notna()]
    image_of = {(row.key, row.method): str(row.image) for row in stored.itertuples()}
    shard_of = dict(zip(rows["key"], rows["shard"], strict=True))
    keys = [
        key for key in choose_keys(summary["ranking"], count) if any(key == stored_key for stored_key, _ in image_of)
    ]
    wanted = set(keys)
    shards = {shard_of[key] for key in keys}
    found: dict[str, Picture] = {}
    for shard in pairs.shards:
        if shard.name not in shards:
            continue
        for pair in read_pairs(pairs, shard):
            if isinstance(pair, Pair) and pair.key in wanted:
                restored = {
                    method: decode_rgb(storage.read_bytes(storage.join(out, name)))
                    for (key, method), name in image_of.items()
                    if key == pair.key
                }
                enlarged = bicubic(pair.lq, summary["protocol"]["scale"])
                found[pair.key] = Picture(pair.key, {LQ: enlarged, **restored, HQ: pair.hq}, pair.record)
    return [found[key] for key in keys]
