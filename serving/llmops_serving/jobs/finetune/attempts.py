"""What the runs of one job remember of each other, on the job's volume: progress, failures, a halved micro-batch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llmops_serving.jobs.ending import Stopped

FAILURES_AT_ONE_STEP = 2


@dataclass(frozen=True)
class Attempts:
    """Runs so far.

    Attributes:
        runs: How many began, this one included.
        step: Where the last one began.
        failures: How many ended badly since a run began at another step; -1 when the last one was told to stop.
        halved: The micro-batch is halved, because once it did not fit into memory.
    """

    runs: int = 0
    step: int = 0
    failures: int = -1
    halved: bool = False


class Memory:
    """The file that holds them."""

    def __init__(self, job: Path) -> None:
        self._place = job / "attempts.json"

    def read(self) -> Attempts:
        """What is known; nothing, when the file is missing or torn."""
        try:
            return Attempts(**json.loads(self._place.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Attempts()

    def began(self, step: int) -> Attempts:
        """Record that a run begins at `step`.

        Raises:
            Stopped: NoProgress, when as many as may have begun here and did not end well.
        """
        said = self.read()
        failures = said.failures + 1 if said.step == step else 0
        if failures >= FAILURES_AT_ONE_STEP:
            raise Stopped(
                "NoProgress",
                f"{failures} runs in a row began at step {step} and ended before the next checkpoint. The log of the "
                "last pod says why; lower checkpoint.everySteps if pods are lost often.",
                facts={"step": step},
            )
        return self._write(Attempts(said.runs + 1, step, failures, said.halved))

    def forgive(self) -> None:
        """This run ended as it was told to: it is none of the failures."""
        self._write(replace(self.read(), failures=-1))

    def halve(self) -> None:
        """From now on with half the micro-batch."""
        self._write(replace(self.read(), halved=True))

    def _write(self, attempts: Attempts) -> Attempts:
        partial = self._place.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(attempts)), encoding="utf-8")
        partial.rename(self._place)
        return attempts
