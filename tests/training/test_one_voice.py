"""Who has told the main process that it knows asks the store nothing more: it may be closing."""

import threading

import pytest
import torch
import torch.distributed as dist

from infra.errors import JobError, UsageError
from training import one_voice
from training.engine import Processes


class ClosedStore:
    """What is left of a store when the process that kept it has gone."""

    def __getattr__(self, name):
        raise AssertionError(f"store.{name} was asked of a store that has closed")


def channels(ranks: int = 2):
    store = dist.HashStore()
    device = torch.device("cpu")
    return [one_voice._FailureChannel(Processes(rank, ranks, rank, device, None), store) for rank in range(ranks)]


@pytest.fixture
def told():
    """The second of two processes, which knows that the first has failed with exit code 2 and is gone."""
    main, other = channels()
    said = []

    def fail():
        with pytest.raises(SystemExit):
            main.fail(2, UsageError("no"), said.append)

    failing = threading.Thread(target=fail)
    failing.start()
    assert other._wait_for(one_voice.FAILED, 5)
    failing.join(5)
    assert [str(error) for error in said] == ["no"]
    other.store = ClosedStore()
    return other


def test_a_second_failure_is_silent_and_ends_with_the_code_of_the_first(told):
    with pytest.raises(SystemExit) as ended:
        told.fail(1, JobError("a collective broke"), lambda error: pytest.fail(f"said {error}"))
    assert ended.value.code == 2


def test_a_process_that_has_finished_leaves_with_the_code_of_the_failure(told):
    with pytest.raises(SystemExit) as ended:
        told.finish()
    assert ended.value.code == 2


def test_the_watch_leaves_after_a_while(told, monkeypatch):
    left = []
    monkeypatch.setattr(one_voice, "GRACE_SECONDS", 0.01)
    monkeypatch.setattr(one_voice.os, "_exit", left.append)
    told.watch()
    assert left == [2]


def test_after_the_end_of_all_the_watch_asks_nothing():
    main, other = channels()
    ending = threading.Thread(target=main.finish)
    ending.start()
    other.finish()
    ending.join(5)
    other.store = ClosedStore()
    assert not other._is_announced(one_voice.FAILED)
