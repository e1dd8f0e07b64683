"""Steps whose loss or gradient was not finite: skipped, counted, and not for ever."""

from infra import storage
from infra.errors import JobError
from training.agreement import gather
from training.engine import Processes
from training.loader import Batch


class BadSteps:
    """Counts skipped optimizer steps and ends the run after `limit` of them in a row."""

    def __init__(self, limit: int, out: str, processes: Processes) -> None:
        self.limit, self.out, self.processes = limit, out, processes
        self.skipped = 0
        self.in_a_row = 0

    def passed(self, applied: bool, batch: Batch) -> bool:
        """Note whether the step was applied, and return it.

        Raises JobError at the limit, after the keys of the samples have been written to OUT/bad_step.json.
        """
        if applied:
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= self.limit:
            self._stop(batch)
        return False

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def _stop(self, batch: Batch) -> None:
        # All processes skip the same steps, so all of them come here.
        everyone = [key for part in gather(self.processes, batch.keys) for key in part]
        report = storage.join(self.out, "bad_step.json")
        if self.processes.is_main:
            storage.write_json(report, {"step": batch.step, "in_a_row": self.in_a_row, "sample_keys": everyone})
        raise JobError(
            f"step {batch.step}: loss or gradient was not finite for {self.in_a_row} steps in a row; the samples of "
            f"the last batch are in {report} (first: {everyone[0]}); lower training.learning_rate or look at the data"
        )
