"""EncoderPool: a batch finds an encoder that answers, and what nobody can mend by waiting is one line."""

import os

import numpy as np
import pytest
import ray
import torch

from infra.errors import JobError
from pipelines import latents_pool
from pipelines.latents_pool import EncoderPool, mean_busy_share

pytestmark = pytest.mark.usefixtures("local_ray")
IMAGES = np.arange(6, dtype=np.uint8), np.arange(3, dtype=np.uint8)


class Stub:
    """An encoder that doubles what it gets, unless it is told to do what encoders do in bad times."""

    def __init__(self, trouble: str = "") -> None:
        self.trouble = trouble
        if trouble == "no weights":
            raise ValueError("the weights are damaged")

    def encode(self, hq: np.ndarray, lq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.trouble == "dies":
            os._exit(1)
        if self.trouble == "no memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB.\nMore on that.")
        return 2 * hq, 2 * lq

    def busy_share(self) -> float:
        return 0.5


def actors(*troubles: str, restarts: int = 0) -> list:
    remote = ray.remote(num_cpus=0, max_restarts=restarts, max_task_retries=0)(Stub)
    return [remote.remote(trouble) for trouble in troubles]


@pytest.fixture(scope="module")
def never_there(local_ray):
    """As one that Ray wants to start again on a node that is gone."""
    return ray.remote(num_cpus=1000)(Stub).remote()


def encoded(pool: EncoderPool, turn: int = 0) -> list[list[int]]:
    return [array.tolist() for array in pool.latents(pool.submit(turn, *IMAGES))]


def test_a_batch_goes_to_an_encoder_that_answers(never_there):
    pool = EncoderPool([never_there, *actors("")], 6)
    assert [encoded(pool, turn) for turn in range(2)] == [[[0, 2, 4, 6, 8, 10], [0, 2, 4]]] * 2
    assert mean_busy_share([never_there, *pool.actors[1:]]) == 0.5
    assert mean_busy_share([never_there]) is None


def test_a_batch_whose_encoder_died_goes_to_another():
    pool = EncoderPool(actors("dies", ""), 6)
    ray.get([actor.busy_share.remote() for actor in pool.actors])
    assert encoded(pool, turn=0) == [[0, 2, 4, 6, 8, 10], [0, 2, 4]]
    assert encoded(pool, turn=0) == [[0, 2, 4, 6, 8, 10], [0, 2, 4]]


def test_a_batch_whose_encoder_is_silent_goes_to_another(never_there, monkeypatch):
    monkeypatch.setattr(latents_pool, "SILENCE_SECONDS", 0.2)
    pool = EncoderPool([never_there, *actors("")], 6)
    pool._up.add(0)  # it was there a moment ago
    pool._down.remove(0)
    assert encoded(pool, turn=0) == [[0, 2, 4, 6, 8, 10], [0, 2, 4]]


@pytest.mark.parametrize(
    ("troubles", "restarts", "expected"),
    [
        (["no weights"], 0, r"an encoder cannot start \(ValueError: the weights are damaged\); what is finished"),
        (["no memory"], 0, r"batch_size: 6 images are too many .*\(CUDA out of memory.*80 GiB\.\); lower it and give"),
        (["dies"], 0, "all encoders died again and again"),
        pytest.param(
            *(["dies"], 9, r"2 encoders died over one batch \(.*lower autoencoder\.batch_size"), marks=pytest.mark.slow
        ),
    ],
)
def test_what_no_other_encoder_mends_is_one_line(troubles, restarts, expected, monkeypatch):
    monkeypatch.setattr(latents_pool, "MOST_LOSSES", 2)
    pool = EncoderPool(actors(*troubles, restarts=restarts), 6)
    with pytest.raises(JobError, match=expected) as raised:
        encoded(pool)
    assert "\n" not in str(raised.value)
