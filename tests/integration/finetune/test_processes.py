"""Two processes that train as one: told to stop, one of them killed, and still what a single process learns."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.finetune.conftest import Ended, Jobs, Process, rows

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
Json = dict[str, Any]
STEPS = 18


def spec(rows_of_a_process: int) -> Json:
    numbers = {"max_steps": STEPS, "learning_rate": "1e-2", "logging_steps": 1}
    return {
        "hyperparameters": numbers | {"per_device_train_batch_size": rows_of_a_process},
        "lora": {"r": 4, "dropout": "0"},
        "checkpoint": {"everySteps": 6},
        "evaluation": {"maxRows": 0},
    }


def gang(jobs: Jobs) -> Process:
    return jobs.start("finetune", spec(2), launcher=("--nproc-per-node", "2", "--max-restarts", "3", "--standalone"))


def learned(events: list[Json]) -> int:
    return max((event["step"] for event in events if event["event"] == "progress" and "loss" in event), default=0)


def curve(jobs: Jobs, ended: Ended) -> dict[int, float]:
    said = json.loads((jobs.volume / str(ended.outcome["uri"]) / "report.json").read_text())
    return {entry["step"]: entry["loss"] for entry in said["history"] if "loss" in entry}


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_two_processes_learn_what_one_does_through_a_stop_and_a_kill(jobs: Jobs) -> None:
    alone = Jobs(jobs.python, jobs.model, jobs.volume.with_name("alone"))
    for each in (jobs, alone):
        each.given(rows(120))
    single = alone.train(**spec(4))
    assert single.outcome["outcome"] == "Completed", single.output

    told = gang(jobs)
    told.until(lambda events: learned(events) >= 2)
    told.process.send_signal(signal.SIGTERM)
    ended = told.ended()
    assert (ended.code, ended.outcome["outcome"]) == (43, "Interrupted"), ended.output

    run = gang(jobs)
    run.until(lambda events: any(event["event"] == "checkpoint" and event["step"] >= 6 for event in events))
    begun = next(event["step"] for event in run.events() if event["event"] == "progress" and "loss" in event)
    assert begun == ended.outcome["step"] + 1
    os.kill(children(run.process.pid)[-1], signal.SIGKILL)
    done = run.ended()
    assert (done.code, done.outcome["outcome"]) == (0, "Completed"), done.output
    assert sum(event["event"] == "training" for event in done.events) == 2  # both began anew
    assert curve(jobs, done) == pytest.approx(curve(alone, single), rel=2e-3)
    assert len(curve(jobs, done)) == STEPS
