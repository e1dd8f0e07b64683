"""The plan of an evaluation: model, champion, other methods and test set resolved and checked, then frozen."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from evaluation.config import EvaluationConfig, PromotionConfig
from evaluation.learned_quality import require_package
from evaluation.model_bundle import Bundle, bundle_digest, load_bundle, read_bundle
from evaluation.others import OtherMethod, open_others
from evaluation.pair_set import PairSet, open_pairs
from evaluation.protocol import build_protocol, protocol_digest
from evaluation.registry import champion_of, load_evaluation, protocol_tag, version_tags
from evaluation.rows import CHAMPION, MODEL, decode_rows, encode_frame
from infra import storage
from infra.errors import JobError, UsageError
from infra.models import fetch, version_of
from infra.recipe import Recipe, difference

PLAN_FILE, CHAMPION_FILE = "evaluation.json", "champion.parquet"
SCHEMA_VERSION = 2  # of evaluation.json, the rows and summary.json; raised when any of them changes its shape


@dataclass(frozen=True)
class Evaluation:
    """A planned evaluation: `plan` is the content of evaluation.json, `bundles` the models by method."""

    plan: dict[str, Any]
    config: EvaluationConfig
    pairs: PairSet
    bundles: Mapping[str, Bundle]
    others: Mapping[str, OtherMethod]
    champion_rows: pd.DataFrame | None
    """Those of the champion's own evaluation, if they are used again."""

    @property
    def protocol(self) -> dict[str, Any]:
        """The frozen protocol."""
        return dict(self.plan["identity"]["protocol"])


@dataclass(frozen=True)
class Request:
    """What a person asks for: URIs and URLs as given."""

    model: str
    data: str
    out: str
    lq: str | None = None
    others: Sequence[str] = ()


def plan_evaluation(recipe: Recipe, request: Request) -> Evaluation:
    """Resolve what is asked for, and check that it belongs together. Raises UsageError."""
    config = recipe.section("evaluation", EvaluationConfig)
    require_package(config.metrics)
    lq = None if request.lq is None else storage.absolute(request.lq)
    pairs = open_pairs(storage.absolute(request.data), config.max_images, config.images_per_shard, lq, recipe.scale)
    protocol = build_protocol(recipe, config, pairs.digest, pairs.num_pairs)
    others = open_others(request.others, protocol)
    described, bundle = _resolve_model(recipe, request.model)
    bundles = {MODEL: bundle}
    champion, champion_rows = _champion(recipe, config, described, protocol, request.out)
    if champion is not None and champion_rows is None:
        champion, bundles[CHAMPION] = _resolve_model(recipe, champion["uri"])
    plan = {
        "schema_version": SCHEMA_VERSION,
        "identity": {
            "format": SCHEMA_VERSION,
            "protocol": protocol,
            "model_digest": described["digest"],
            "images_per_shard": pairs.images_per_shard,
            "others": {name: other.digest for name, other in others.items()},
        },
        "protocol_digest": protocol_digest(protocol),
        "model": described,
        "champion": champion,
        "others": {name: other.url for name, other in others.items()},
        "data": request.data,
        "lq": request.lq,
        "recipe": dict(recipe.raw),
    }
    return Evaluation(plan, config, pairs, bundles, others, champion_rows)


def freeze_plan(evaluation: Evaluation, out: str) -> None:
    """Write evaluation.json once. Raises UsageError if `out` holds the evaluation of something else."""
    if evaluation.champion_rows is not None:
        # Beside the plan, and before it: an evaluation that goes on must not depend on another run's files.
        storage.write_bytes(storage.join(out, CHAMPION_FILE), encode_frame(evaluation.champion_rows), if_absent=True)
    if storage.write_json(storage.join(out, PLAN_FILE), evaluation.plan, if_absent=True):
        return
    existing = _read_plan(out)
    assert existing is not None, "write_json said that it exists"
    if changes := difference(existing["identity"], evaluation.plan["identity"]):
        raise UsageError(
            f"out '{out}': holds another evaluation ({'; '.join(changes[:4])}); choose another --out or undo the change"
        )


def _champion(
    recipe: Recipe, config: EvaluationConfig, model: dict[str, Any], protocol: dict[str, Any], out: str
) -> tuple[dict[str, Any] | None, pd.DataFrame | None]:
    """The champion to compare with, if any, and its rows if they need not be measured again."""
    existing = _read_plan(out)
    if existing is not None:
        # The champion may have changed since this evaluation began, by its own promotion for one: go on with the old.
        champion = existing["champion"]
        if champion is None or champion.get("evaluation_run_id") is None:
            return champion, None
        return champion, _read_champion(out)
    if not config.compare_to_champion or model["name"] is None:
        return None, None
    version = champion_of(model["name"])
    if version is None or version == model["version"]:
        return None, None
    champion = {"uri": f"models:/{model['name']}/{version}", "name": model["name"], "version": version}
    if recipe.section("promotion", PromotionConfig).max_runtime_ratio is not None:
        return champion, None  # runtimes compare only if they were measured side by side
    run_id = version_tags(model["name"], version).get(protocol_tag(protocol_digest(protocol)))
    if run_id is None:
        return champion, None
    try:
        earlier = load_evaluation(run_id)
    except JobError as error:
        print(f"note: the champion is measured again: {error}", file=sys.stderr)
        return champion, None
    if earlier.summary["schema_version"] != SCHEMA_VERSION or difference(earlier.summary["protocol"], protocol):
        return champion, None
    rows = earlier.rows[earlier.rows["method"] == MODEL].assign(method=CHAMPION, shard=None)
    reused = {"digest": earlier.summary["model"]["digest"], "evaluation_run_id": run_id, "out": earlier.summary["out"]}
    return champion | reused, rows


def _resolve_model(recipe: Recipe, uri: str) -> tuple[dict[str, Any], Bundle]:
    """A model's description and its files. Raises UsageError if it does not exist or is of another task or scale."""
    named = version_of(uri)
    name, version = named if named else (None, None)
    pinned = f"models:/{name}/{version}" if named else uri
    bundle = read_bundle(fetch(pinned))
    try:
        restorer = load_bundle(bundle, "cpu")
    except ValueError as error:
        raise UsageError(f"model '{uri}': {error}") from error
    for what, own, wanted in (("task", restorer.task, recipe.task), ("scale", restorer.scale, recipe.scale)):
        if own != wanted:
            raise UsageError(f"model '{uri}': its {what} is {own}, the recipe '{recipe.name}' asks for {wanted}")
    return {"uri": pinned, "name": name, "version": version, "digest": bundle_digest(bundle)}, bundle


def _read_champion(out: str) -> pd.DataFrame:
    """The champion's rows as they were kept when the evaluation began."""
    url = storage.join(out, CHAMPION_FILE)
    try:
        return decode_rows(storage.read_bytes(url))
    except (FileNotFoundError, ValueError) as error:
        what = "is gone" if isinstance(error, FileNotFoundError) else str(error)
        raise JobError(f"{url} {what}; evaluate into a new --out") from error


def _read_plan(out: str) -> dict[str, Any] | None:
    try:
        return dict(storage.read_json(storage.join(out, PLAN_FILE)))
    except FileNotFoundError:
        return None
    except JobError as error:
        if isinstance(error.__cause__, NotADirectoryError):
            raise UsageError(f"out '{out}': is a file or lies below one; choose another --out") from error
        raise
