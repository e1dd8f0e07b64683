"""Who is and was the champion, and changing it in one piece although MLflow moves one alias at a time.

The registered model keeps the line of its champions in the tag `champion.history`. What is about to change is written
down first, in the tag `champion.change`, and taken away when all of it is done: what a killed command left, the next
one completes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from evaluation.promotion_lock import promotion_lock
from evaluation.registry import (
    CHAMPION_ALIAS,
    PREVIOUS_ALIAS,
    champion_of,
    client,
    model_tags,
    set_version_tags,
)
from infra.errors import JobError
from infra.tracking import tracking_errors

HISTORY_TAG, CHANGE_TAG = "champion.history", "champion.change"
MAX_HISTORY = 100  # champions that are remembered: a tag has room for some hundreds


@dataclass(frozen=True)
class Change:
    """The line of champions afterwards, oldest first, and the tags that say so on the version it is about."""

    history: Sequence[str]
    version: str
    tags: Mapping[str, str]
    is_rollback: bool = False


def history_of(name: str, champion: str | None) -> list[str]:
    """The champions until today, oldest first; the last one is `champion`, also if its alias was set by hand."""
    history = [str(version) for version in json.loads(model_tags(name).get(HISTORY_TAG, "[]"))]
    return history if champion is None or history[-1:] == [champion] else [*history, champion]


def change_champion(
    name: str, expected: str | None, when: str, change: Change, record: Mapping[str, str] | None = None
) -> None:
    """Make a change if the champion still is `expected`; `record` is written on the version before anything moves.

    Raises JobError, ending in `when`, if somebody else changed the champion meanwhile.
    """
    with promotion_lock(name):
        _complete(name)
        _require_champion(name, expected, when)
        set_version_tags(name, change.version, record or {})
        with tracking_errors():
            client().set_registered_model_tag(name, CHANGE_TAG, json.dumps(asdict(change)))
        _complete(name)


def complete_change(name: str) -> Change | None:
    """Complete the change that a killed command left, if there is one; returns it."""
    if CHANGE_TAG not in model_tags(name):
        return None
    with promotion_lock(name):
        return _complete(name)


def _complete(name: str) -> Change | None:
    """Do all that the written change says; every part may be done already. Called with the lock held."""
    written = model_tags(name).get(CHANGE_TAG)
    if written is None:
        return None
    change = Change(**json.loads(written))
    history = change.history[-MAX_HISTORY:]
    champion = history[-1]
    with tracking_errors():
        client().set_registered_model_alias(name, CHAMPION_ALIAS, champion)
        if len(history) > 1:
            client().set_registered_model_alias(name, PREVIOUS_ALIAS, history[-2])
        else:
            client().delete_registered_model_alias(name, PREVIOUS_ALIAS)
        set_version_tags(name, change.version, change.tags)
        client().set_registered_model_tag(name, HISTORY_TAG, json.dumps(history))
        client().delete_registered_model_tag(name, CHANGE_TAG)
    _require_champion(name, champion, f"the alias was given to version {champion}, by somebody outside this command")
    return change


def _require_champion(name: str, expected: str | None, when: str) -> None:
    found = champion_of(name)
    if found != expected:
        became = "the model has no champion any more" if found is None else f"version {found} became the champion"
        raise JobError(f"model {name}: {became} while {when}; run the same command again to decide anew")
