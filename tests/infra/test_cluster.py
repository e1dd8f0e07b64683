"""Joining a cluster or starting one: what goes wrong there is one line."""

import pytest

from infra import cluster
from infra.errors import JobError


@pytest.mark.parametrize("kind", [Exception, RuntimeError])
def test_ray_that_does_not_come_up_is_one_line(kind, monkeypatch):
    def fail(**_):
        raise kind("The current node timed out during start")

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", fail)
    with pytest.raises(JobError, match=r"Ray did not start \(The current node .*; run the same command again"):
        cluster.cluster().__enter__()


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    def fail(**_):
        raise TypeError("unexpected argument")

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", fail)
    with pytest.raises(TypeError):
        cluster.cluster().__enter__()
