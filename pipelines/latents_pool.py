"""The encoders of a job as their users see them: a batch goes to one that answers, and to another if that one is lost.

An encoder keeps a GPU or a core. When its node is lost, the others may hold all there are, and Ray has it wait for one
for ever. So nobody waits for a certain encoder: who encodes a batch changes none of its latents.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorDiedError, ObjectLostError, RayActorError, RayTaskError

from infra.cluster import check_start
from infra.errors import JobError
from infra.memory import is_out_of_memory

SILENCE_SECONDS = 60.0
"""An encoder that gives nothing for so long is asked whether it is there, and given up if it is silent again."""
PAUSE_SECONDS = 1.0
ENCODER = "an encoder"
MOST_LOSSES = 4  # of one batch: then the batch is what kills them


@dataclass(frozen=True)
class Batch:
    """Images on their way: where they are stored, the encoder that has them, and what it will return."""

    turn: int
    images: tuple[Any, ...]
    encoder: int
    latents: Any


class EncoderPool:
    """Actors of `Encoder`; every user has a pool of its own and learns for itself which of them answer."""

    def __init__(self, actors: Sequence[Any], batch_size: int) -> None:
        self.actors, self.batch_size = actors, batch_size
        self._asked: dict[Any, int] = {}
        self._up, self._down, self._dead = set[int](), set(range(len(actors))), set[int]()

    def submit(self, turn: int, *images: np.ndarray) -> Batch:
        """Hand images, the arguments of `Encoder.encode`, to an encoder; successive turns spread over all of them."""
        return self._send(turn, tuple(ray.put(array) for array in images))

    def latents(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Wait for what `Encoder.encode` returns. Raises JobError if no encoder can start or the batch is too large."""
        reason = "no answer"
        for _ in range(MOST_LOSSES):
            try:
                if self._is_answered(batch):
                    return ray.get(batch.latents)
            except (RayActorError, ObjectLostError) as error:  # what is lost with its node has to be computed again
                if isinstance(error, RayActorError):
                    check_start(error, ENCODER)
                reason = str(error).splitlines()[0]
            except RayTaskError as error:
                if isinstance(error.cause, JobError):
                    raise error.cause from error
                if is_out_of_memory(error.cause):
                    raise JobError(
                        f"autoencoder.batch_size: {self.batch_size} images are too many for the memory "
                        f"({str(error.cause).splitlines()[0]}); lower it and give another --out"
                    ) from error
                raise
            self._up.clear()
            self._asked.clear()
            self._down = set(range(len(self.actors))) - self._dead
            batch = self._send(batch.turn, batch.images)
        raise JobError(
            f"{MOST_LOSSES} encoders died over one batch ({reason}); what is finished is kept: mend the nodes (mostly "
            "their memory) and run the same command again, or lower autoencoder.batch_size and give another --out"
        )

    def _send(self, turn: int, images: tuple[Any, ...]) -> Batch:
        answering = self._answering()
        encoder = answering[turn % len(answering)]
        return Batch(turn, images, encoder, self.actors[encoder].encode.remote(*images))

    def _is_answered(self, batch: Batch) -> bool:
        """True when there is an answer, be it an error; False if the encoder does not even say that it is there."""
        while not ray.wait([batch.latents], timeout=SILENCE_SECONDS)[0]:
            asked = self.actors[batch.encoder].busy_share.remote()
            if not ray.wait([asked, batch.latents], timeout=SILENCE_SECONDS)[0]:
                return False
        return True

    def _answering(self) -> list[int]:
        """Those that have said that they are there; waits for the first one."""
        while True:
            for encoder in self._down:
                self._asked[self.actors[encoder].busy_share.remote()] = encoder
            self._down = set()
            self._hear(0 if self._up else PAUSE_SECONDS)
            if self._up:
                return sorted(self._up)
            if len(self._dead) == len(self.actors):
                raise JobError(
                    "all encoders died again and again; what is finished is kept: mend the nodes (mostly their "
                    "memory) and run the same command again"
                )
            if self._down:
                time.sleep(PAUSE_SECONDS)

    def _hear(self, seconds: float) -> None:
        """Sort those that were asked by what they answer within these seconds."""
        if not self._asked:
            return
        ray.wait(list(self._asked), timeout=seconds)
        answers, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        for answer in answers:
            encoder = self._asked.pop(answer)
            try:
                ray.get(answer)
                self._up.add(encoder)
            except ActorDiedError as error:
                check_start(error, ENCODER)
                self._dead.add(encoder)
            except RayActorError:  # it is about to start again, or hopes to
                self._down.add(encoder)


def mean_busy_share(actors: Sequence[Any]) -> float | None:
    """How busy those encoders were that are still there, 0 to 1; None if there are none."""
    asked = [actor.busy_share.remote() for actor in actors]
    answers, _ = ray.wait(asked, num_returns=len(asked), timeout=PAUSE_SECONDS)
    shares = []
    for answer in answers:
        try:
            shares.append(ray.get(answer))
        except RayActorError:  # lost on the way
            continue
    return sum(shares) / len(shares) if shares else None
