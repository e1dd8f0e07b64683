"""promote: a version becomes the champion if its evaluation passes the recipe's gates, and the decision is on record.

Aliases: `champion` is the version in use, `previous` the one it replaced. Each promoted version remembers in the tag
`promotion.replaced` whom it replaced, so that rolling back can go more than one step.
"""

import getpass
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from evaluation.config import EvaluationConfig, PromotionConfig
from evaluation.gates import GateResult, Reference, check_gates, passed
from evaluation.protocol import require_same
from evaluation.registry import (
    CHAMPION_ALIAS,
    EVALUATION_TAG,
    PREVIOUS_ALIAS,
    LoggedEvaluation,
    champion_of,
    client,
    load_evaluation,
    protocol_tag,
    set_version_tags,
    version_tags,
)
from evaluation.rows import CHAMPION, MODEL
from infra.errors import JobError, UsageError
from infra.models import version_of
from infra.recipe import Recipe
from infra.tracking import tracking_errors

REPLACED_TAG = "promotion.replaced"
EXIT_REFUSED = 3


@dataclass(frozen=True)
class Decision:
    """The outcome for a version. `replaced` is the champion before, if any; no results: it was the champion already."""

    name: str
    version: str
    promoted: bool
    results: tuple[GateResult, ...]
    replaced: str | None


def promote(recipe: Recipe, name: str, version: str, reason: str = "", dry_run: bool = False) -> Decision:
    """Check the gates of the recipe for a version and, if all pass, make it the champion.

    Whoever decided, when and why is written as tags on the version, for a refusal too. Raises UsageError if the version
    or its evaluation does not exist, if it was measured for another task, or under another protocol than the champion;
    JobError if somebody else changed the champion meanwhile.
    """
    promotion = recipe.section("promotion", PromotionConfig)
    config = recipe.section("evaluation", EvaluationConfig)
    _require_version(name, version)
    champion = champion_of(name)
    if champion == version:
        return Decision(name, version, True, (), None)
    candidate = _evaluation_of(name, version)
    _require_recipe(recipe, candidate, name, version)
    reference = None if champion is None else _reference(name, champion, candidate)
    champion_rows = None if reference is None else reference[0]
    results = tuple(check_gates(promotion, config, candidate.summary, candidate.rows, champion_rows))
    decision = Decision(name, version, passed(results), results, champion)
    if dry_run:
        return decision
    record = _record(decision, candidate, None if reference is None else reference[1], reason)
    if decision.promoted:
        _move_champion(name, version, expected=champion)
    set_version_tags(name, version, record)
    return decision


def roll_back(name: str, reason: str = "", dry_run: bool = False) -> tuple[str, str]:
    """Give the alias `champion` back to the version the champion replaced; returns (version left, version restored).

    Raises UsageError if there is no champion or it replaced none.
    """
    champion = champion_of(name)
    if champion is None:
        raise UsageError(f"model {name} has no champion; promote a version first")
    replaced = version_tags(name, champion).get(REPLACED_TAG)
    if not replaced:
        raise UsageError(f"model {name} version {champion} replaced no version; there is nothing to roll back to")
    _require_version(name, replaced)
    if dry_run:
        return champion, replaced
    earlier = version_tags(name, replaced).get(REPLACED_TAG) or None
    with tracking_errors():
        client().set_registered_model_alias(name, CHAMPION_ALIAS, replaced)
        _set_previous(name, earlier)
    tags = {"rollback.at": _now(), "rollback.by": getpass.getuser(), "rollback.to": replaced, "rollback.reason": reason}
    set_version_tags(name, champion, {"promotion.status": "rolled back", **tags})
    return champion, replaced


def _require_version(name: str, version: str) -> None:
    version_of(f"models:/{name}/{version}")


def _evaluation_of(name: str, version: str) -> LoggedEvaluation:
    run_id = version_tags(name, version).get(EVALUATION_TAG)
    if run_id is None:
        raise UsageError(
            f"model {name} version {version} was not evaluated; "
            f"run evaluation/evaluate.py --model models:/{name}/{version}"
        )
    return load_evaluation(run_id)


def _require_recipe(recipe: Recipe, candidate: LoggedEvaluation, name: str, version: str) -> None:
    protocol = candidate.summary["protocol"]
    for what, measured, wanted in (("task", protocol["task"], recipe.task), ("scale", protocol["scale"], recipe.scale)):
        if measured != wanted:
            raise UsageError(
                f"recipe '{recipe.name}': its {what} is {wanted}, model {name} version {version} was evaluated for "
                f"{measured}; give the recipe it was trained with"
            )


def _reference(name: str, champion: str, candidate: LoggedEvaluation) -> tuple[Reference, str]:
    """The champion's rows under the candidate's protocol, and the run they come from.

    Best are those measured beside the candidate, in one evaluation (runtimes compare, too); else the champion's own
    evaluation under the same protocol. Raises UsageError if there is neither.
    """
    label = f"champion v{champion}"
    beside = candidate.summary["champion"]
    if beside is not None and str(beside["version"]) == champion:
        rows = candidate.rows[candidate.rows["method"] == CHAMPION]
        return Reference(label, rows, candidate.summary["seconds_per_megapixel"].get(CHAMPION)), candidate.run_id
    tags = version_tags(name, champion)
    run_id = tags.get(protocol_tag(candidate.summary["protocol_digest"])) or tags.get(EVALUATION_TAG)
    if run_id is None:
        raise UsageError(
            f"champion {name} version {champion} was not evaluated; evaluate it on the same test set, or evaluate "
            f"version {candidate.summary['model']['version']} into a new --out, which measures the champion beside it"
        )
    own = load_evaluation(run_id)
    require_same(own.summary["protocol"], candidate.summary["protocol"], "the champion and this version")
    return Reference(label, own.rows[own.rows["method"] == MODEL], None), run_id


def _record(decision: Decision, candidate: LoggedEvaluation, champion_run: str | None, reason: str) -> dict[str, str]:
    """The tags that say who decided what, when and why."""
    gates = "; ".join(
        f"{'pass' if result.passed else 'FAIL'} {result.gate}: {result.measured} ({result.required})"
        for result in decision.results
    )
    tags: dict[str, Any] = {
        "promotion.status": "promoted" if decision.promoted else "refused",
        "promotion.at": _now(),
        "promotion.by": getpass.getuser(),
        "promotion.reason": reason,
        "promotion.gates": gates[:4900],  # registries bound the length of a tag
        "promotion.protocol": candidate.summary["protocol_digest"],
        "promotion.evaluation_run_id": candidate.run_id,
        "promotion.champion_evaluation_run_id": champion_run or "",
    }
    if decision.promoted:
        tags[REPLACED_TAG] = decision.replaced or ""
    return tags


def _move_champion(name: str, version: str, expected: str | None) -> None:
    """Point the aliases to the new champion, unless somebody moved them since the gates were checked."""
    with tracking_errors():
        found = champion_of(name)
        if found != expected:
            raise JobError(
                f"model {name}: version {found} became the champion while version {version} was being checked; "
                "run the same command again to compare with it"
            )
        client().set_registered_model_alias(name, CHAMPION_ALIAS, version)
        _set_previous(name, expected)


def _set_previous(name: str, version: str | None) -> None:
    if version is None:
        client().delete_registered_model_alias(name, PREVIOUS_ALIAS)
    else:
        client().set_registered_model_alias(name, PREVIOUS_ALIAS, version)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
