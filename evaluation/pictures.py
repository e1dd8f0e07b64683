"""Which images the report shows, and their pixels: read again from the test set and from what was restored."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluation.evaluation_plan import Evaluation
from evaluation.evaluator import bicubic
from evaluation.pair_set import Pair, read_pairs
from evaluation.report_gallery import Picture
from evaluation.report_words import HQ, LQ
from evaluation.rows import BICUBIC, CHAMPION, OK
from evaluation.summary import methods_of
from infra import storage
from infra.errors import JobError
from resshift.image_files import decode_rgb

BEST_SHARE = 0.25  # of the images shown; the others are the worst


def choose_keys(ranking: Sequence[str], count: int) -> list[str]:
    """The keys to show from a ranking (worst first): mostly the worst, then some of the best, never one twice."""
    if count >= len(ranking):
        return list(ranking)
    best = int(count * BEST_SHARE)
    return [*ranking[: count - best], *ranking[len(ranking) - best :]]


def collect_pictures(evaluation: Evaluation, rows: pd.DataFrame, summary: Mapping[str, Any], out: str) -> list[Picture]:
    """The pictures of the report, worst first, with the images of every method that still has them."""
    keys = choose_keys(summary["ranking"], evaluation.config.report_images)
    own = rows[rows["shard"].notna()]
    shard_of = dict(zip(own["key"], own["shard"], strict=True))
    wanted, shards = set(keys), {shard_of[key] for key in keys}
    found: dict[str, Picture] = {}
    for shard in evaluation.pairs.shards:
        if shard.name in shards:
            for pair in read_pairs(evaluation.pairs, shard):
                if isinstance(pair, Pair) and pair.key in wanted:
                    found[pair.key] = _picture(evaluation, rows, pair, out)
    return [found[key] for key in keys]


def _picture(evaluation: Evaluation, rows: pd.DataFrame, pair: Pair, out: str) -> Picture:
    measured = rows[(rows["key"] == pair.key) & (rows["status"] == OK)].set_index("method")
    images = {LQ: bicubic(pair.lq, evaluation.protocol["scale"])}
    for method in methods_of(rows):
        if method != BICUBIC and method in measured.index:  # bicubic is the enlarged LQ
            restored = _restored(evaluation, pair, method, measured["image"][method], out)
            if restored is not None:
                images[method] = restored
    return Picture(pair.key, {**images, HQ: pair.hq}, pair.record)


def _restored(evaluation: Evaluation, pair: Pair, method: str, image: object, out: str) -> np.ndarray | None:
    """What a method made of a test image; None if it was not kept, or no longer is: its figures stay.

    Raises JobError if the file is damaged or its store is out of reach, unless another evaluation left it there.
    """
    if method in evaluation.others:
        return evaluation.others[method].restored(pair, evaluation.protocol["scale"])
    if not isinstance(image, str):  # no image was saved
        return None
    champion = evaluation.plan["champion"]
    elsewhere = method == CHAMPION and evaluation.champion_rows is not None
    url = storage.join(champion["out"] if elsewhere else out, image)
    try:
        return decode_rgb(storage.read_bytes(url))
    except FileNotFoundError:
        return None
    except (JobError, ValueError) as error:
        if elsewhere:
            return None
        if isinstance(error, JobError):
            raise
        raise JobError(f"{url} {error}; delete it and run the same command again, the figures stay") from error
