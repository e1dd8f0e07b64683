"""Figures on their way to MLflow: a server that is away for a while stops neither the training nor its record."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric

from infra import storage
from infra.errors import JobError
from infra.tracking import TRACKING_FAILURES, reason_of, why_away

RETRY_SECONDS = 60.0  # between two tries while the server is away: each may hold up the steps for seconds
MOST_METRICS = 200_000  # the oldest go first; about 30 MB
MOST_PICTURES = 16
AT_ONCE = 1000  # metrics in one request, MLflow's own limit


@dataclass(frozen=True)
class _Picture:
    name: str
    step: int
    timestamp: int
    image: np.ndarray


class Outbox:
    """What a run has to tell, kept until the server has taken it; sent at once as long as the server answers.

    location: where metrics lie between two starts of a command that could not send them; pictures are given up then.
    """

    def __init__(self, run_id: str, location: str) -> None:
        self.run_id, self.location = run_id, location
        self._metrics: deque[Metric] = deque(maxlen=MOST_METRICS)
        self._pictures: deque[_Picture] = deque(maxlen=MOST_PICTURES)
        self._reason: str | None = None  # why the server is away, as far as we know
        self._next_try = 0.0
        self._stored = storage.exists(location)
        if self._stored:
            self._metrics.extend(Metric(*entry) for entry in storage.read_json(location))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Tell figures of optimizer step `step`."""
        now = _milliseconds()
        self._metrics.extend(Metric(name, float(value), now, step) for name, value in values.items())
        self._send_if_due()

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Tell a picture, uint8 (H, W, 3), of optimizer step `step`."""
        self._pictures.append(_Picture(name, step, _milliseconds(), image))
        self._send_if_due()

    def deliver(self) -> None:
        """Send what is left, now. Raises JobError if the server does not take it."""
        self._send()
        if self._reason is not None:
            raise JobError(
                f"MLflow at {self._reason}; {len(self._metrics)} figures and {len(self._pictures)} pictures of this "
                "training are not sent yet; its checkpoints are whole: run the same command again when it answers"
            )

    def close(self) -> None:
        """Store the metrics that were not sent, for the next start of the command."""
        if self._metrics:
            storage.write_json(self.location, [[m.key, m.value, m.timestamp, m.step] for m in self._metrics])
        elif self._stored:
            storage.delete(self.location)

    def _send_if_due(self) -> None:
        if self._reason is not None and time.monotonic() < self._next_try:
            return
        before = self._reason
        self._send()
        if self._reason is not None and before is None:
            print(f"warning: MLflow at {self._reason}; training goes on, its figures are sent later", file=sys.stderr)

    def _send(self) -> None:
        """Send until nothing is left or something is refused. Metrics that come twice are one to MLflow."""
        self._reason = why_away()  # knocking is quick; a request would wait for minutes before a server that hangs
        if self._reason is None:
            try:
                self._send_all(MlflowClient())
            except TRACKING_FAILURES as error:
                self._reason = reason_of(error)
        self._next_try = time.monotonic() + RETRY_SECONDS

    def _send_all(self, client: MlflowClient) -> None:
        while self._metrics:
            part = list(islice(self._metrics, AT_ONCE))
            client.log_batch(self.run_id, metrics=part, synchronous=True)
            for _ in part:
                self._metrics.popleft()
        while self._pictures:
            picture = self._pictures[0]
            client.log_image(
                self.run_id, picture.image, key=picture.name, step=picture.step, timestamp=picture.timestamp,
                synchronous=True,
            )  # fmt: skip
            self._pictures.popleft()


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
