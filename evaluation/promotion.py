"""promote: a version becomes the champion if its evaluation passes the recipe's gates, and the decision is on record.

Aliases: `champion` is the version in use, `previous` the one it replaced; rolling back can go on through all earlier
champions (evaluation.champion_change). The record is written before the aliases move: whoever finds a champion finds
why it is one, and a command that was killed completes its work when run again.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from evaluation.champion_change import Change, change_champion, complete_change, history_of
from evaluation.config import EvaluationConfig, PromotionConfig
from evaluation.gates import GateResult, Reference, check_gates, passed
from evaluation.protocol import require_same
from evaluation.registry import (
    EVALUATION_TAG,
    LoggedEvaluation,
    champion_of,
    client,
    load_evaluation,
    protocol_tag,
    set_version_tags,
    version_tags,
)
from evaluation.rows import CHAMPION, MODEL
from infra.errors import UsageError
from infra.models import version_of
from infra.recipe import Recipe
from infra.tracking import tracking_errors, user_name

REPLACED_TAG, STATUS_TAG = "promotion.replaced", "promotion.status"
CANDIDATE_RUN_TAG, CHAMPION_RUN_TAG = "promotion.evaluation_run_id", "promotion.champion_evaluation_run_id"
PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled back"
EXIT_REFUSED = 3


@dataclass(frozen=True)
class Evidence:
    """An evaluation that a decision rests on: whose figures, on which test set, in which run."""

    whose: str
    data: str
    run_id: str


@dataclass(frozen=True)
class Decision:
    """The outcome for a version. `replaced` is the champion before, if any; no results: it was the champion already."""

    name: str
    version: str
    promoted: bool
    results: tuple[GateResult, ...]
    replaced: str | None
    evidence: tuple[Evidence, ...] = ()


def promote(recipe: Recipe, name: str, version: str, reason: str = "", dry_run: bool = False) -> Decision:
    """Check the gates of the recipe for a version and, if all pass, make it the champion.

    Whoever decided, when and why is written as tags on the version, for a refusal too, and on both evaluations' runs.
    A change that a killed command left is completed first. Raises UsageError if the version or its evaluation does not
    exist, if it was measured for another task, without a metric of the gates, under another protocol than the champion
    or not timed beside it; JobError if somebody else changed the champion meanwhile.
    """
    promotion = recipe.section("promotion", PromotionConfig)
    config = recipe.section("evaluation", EvaluationConfig)
    version = _existing(name, version)
    if not dry_run:
        complete_change(name)
    champion = champion_of(name)
    if champion == version:
        return Decision(name, version, True, (), None)
    candidate = _evaluation_of(name, version)
    _require_recipe(recipe, candidate, name, version)
    evidence = [Evidence(f"version {version}", candidate.summary["data"], candidate.run_id)]
    champion_rows = None
    if champion is not None:
        champion_rows, of_champion = _reference(name, champion, candidate)
        evidence.append(of_champion)
    results = tuple(check_gates(promotion, config, candidate.summary, candidate.rows, champion_rows))
    decision = Decision(name, version, passed(results), results, champion, tuple(evidence))
    if dry_run:
        return decision
    record = _record(decision, candidate, reason)
    if not decision.promoted:
        set_version_tags(name, version, record)
    else:
        change = Change([*history_of(name, champion), version], version, {STATUS_TAG: record.pop(STATUS_TAG)})
        change_champion(name, champion, f"version {version} was being checked", change, record)
    _link_runs(decision, record)
    return decision


def roll_back(name: str, reason: str = "", version: str | None = None, dry_run: bool = False) -> tuple[str, str]:
    """Give the alias `champion` back to the version the champion replaced; returns (version left, version restored).

    `version`: the champion to roll back from; without it, whichever holds the alias. Raises UsageError if there is no
    champion, if it is another version, or if it replaced none; JobError if somebody changed the champion meanwhile. If
    a rollback was killed half way, that one is completed and no other done.
    """
    left = None if version is None else _existing(name, version)
    if not dry_run and (unfinished := complete_change(name)) is not None and unfinished.is_rollback:
        return unfinished.version, unfinished.history[-1]
    champion = champion_of(name)
    if champion is None:
        raise UsageError(f"model {name} has no champion; promote a version first")
    if left not in (None, champion):
        raise UsageError(f"version: {left} is not the champion of model {name}, which is {champion}; nothing is done")
    history = history_of(name, champion)
    if len(history) == 1:
        raise UsageError(f"model {name} version {champion} replaced no version; there is nothing to roll back to")
    replaced = _existing(name, history[-2])
    if dry_run:
        return champion, replaced
    record = {"rollback.at": _now(), "rollback.by": user_name(), "rollback.to": replaced, "rollback.reason": reason}
    change = Change(history[:-1], champion, {STATUS_TAG: ROLLED_BACK}, is_rollback=True)
    change_champion(name, champion, "it was being rolled back", change, record)
    return champion, replaced


def _existing(name: str, version: str) -> str:
    """The version's number as the registry writes it. Raises UsageError if there is none."""
    named = version_of(f"models:/{name}/{version}")
    assert named is not None, "a models:/ URI names a version"
    return named[1]


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


def _reference(name: str, champion: str, candidate: LoggedEvaluation) -> tuple[Reference, Evidence]:
    """The champion's rows under the candidate's protocol, and the evaluation they come from.

    Best are those that stand beside the candidate's (runtimes compare, too, if they were measured there); else its own
    evaluation under the same protocol. Raises UsageError if there is neither.
    """
    label = f"champion v{champion}"
    beside = candidate.summary["champion"]
    if beside is not None and str(beside["version"]) == champion:
        rows = candidate.rows[candidate.rows["method"] == CHAMPION]
        runtime = candidate.summary["seconds_per_megapixel"].get(CHAMPION)
        run_id = beside.get("evaluation_run_id") or candidate.run_id
        return Reference(label, rows, runtime), Evidence(label, candidate.summary["data"], run_id)
    tags = version_tags(name, champion)
    run_id = tags.get(protocol_tag(candidate.summary["protocol_digest"])) or tags.get(EVALUATION_TAG)
    if run_id is None:
        raise UsageError(
            f"champion {name} version {champion} was not evaluated; evaluate it on the same test set, or evaluate "
            f"version {candidate.summary['model']['version']} into a new --out, which measures the champion beside it"
        )
    own = load_evaluation(run_id)
    require_same(own.summary["protocol"], candidate.summary["protocol"], "the champion and this version")
    rows = own.rows[own.rows["method"] == MODEL]
    return Reference(label, rows, None), Evidence(label, own.summary["data"], run_id)


def _record(decision: Decision, candidate: LoggedEvaluation, reason: str) -> dict[str, str]:
    """The tags that say who decided what, when and why."""
    gates = "; ".join(
        f"{'pass' if result.passed else 'FAIL'} {result.gate}: {result.measured} ({result.required})"
        for result in decision.results
    )
    tags: dict[str, Any] = {
        STATUS_TAG: PROMOTED if decision.promoted else REFUSED,
        "promotion.at": _now(),
        "promotion.by": user_name(),
        "promotion.reason": reason,
        "promotion.gates": gates[:4900],  # registries bound the length of a tag
        "promotion.protocol": candidate.summary["protocol_digest"],
        CANDIDATE_RUN_TAG: candidate.run_id,
        CHAMPION_RUN_TAG: "".join(found.run_id for found in decision.evidence[1:]),
    }
    if decision.promoted:
        tags[REPLACED_TAG] = decision.replaced or ""
    return tags


def _link_runs(decision: Decision, record: dict[str, str]) -> None:
    """Say on the runs of both evaluations what was decided with them."""
    words = f"{decision.name} version {decision.version} {PROMOTED if decision.promoted else REFUSED}"
    with tracking_errors():
        for key in (CANDIDATE_RUN_TAG, CHAMPION_RUN_TAG):
            if record[key]:
                client().set_tag(record[key], "promotion.decision", words)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
