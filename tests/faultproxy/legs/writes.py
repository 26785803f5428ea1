"""Every write of a workflow times every fault."""

from __future__ import annotations

import math
from pathlib import Path

from tests.faultproxy import runs
from tests.faultproxy.kubelet import PodStatuses
from tests.faultproxy.lane import client_of, ground
from tests.faultproxy.page import Section, matrix
from tests.faultproxy.workflows import BACK_UP, SERVE, TUNE, Workflow

PROMISED_SECONDS = 15.0
LANES, AT_ONCE = 4, 6
SECONDS = 720.0  # for one kind, so that all three end within 40 minutes on a machine of any speed


def serve(directory: Path, *, long: bool) -> Section:
    """The matrix of an LLMDeployment; `long` lets it take its time."""
    return _run(directory, "serve", SERVE, math.inf if long else SECONDS)


def tune(directory: Path, *, long: bool) -> Section:
    """The matrix of a FineTuneJob; `long` lets it take its time."""
    return _run(directory, "tune", TUNE, math.inf if long else SECONDS)


def back_up(directory: Path, *, long: bool) -> Section:
    """The matrix of a ModelBackup; `long` lets it take its time."""
    return _run(directory, "backup", BACK_UP, math.inf if long else SECONDS)


def _run(directory: Path, leg: str, workflow: Workflow, seconds: float) -> Section:
    with ground() as plane, PodStatuses(client_of(plane.kubeconfig)) as pods:
        found = runs.references(plane, directory, pods, [workflow])
        every = runs.points(found)
        outcomes = runs.outcomes(plane, directory, pods, found, every, lanes=LANES, at_once=AT_ONCE, seconds=seconds)
    steps = [step.name for step in workflow.steps]
    outcomes.sort(key=lambda each: (steps.index(each.point.step), each.point.number))
    wrong = [f"{each.point} ({each.write}): {each.problem}" for each in outcomes if each.problem]
    late = [each for each in outcomes if each.point.fault.kills and each.seconds > PROMISED_SECONDS]
    broken = [*wrong[:20], *[f"{len(late)} took longer than 15 s from the restart"] * bool(late)]
    left = len(every) - len(outcomes)
    why = "the time was over, or another point of their run had gone wrong"
    said = f"\n\nOf {len(every)} points {left} were not run: {why}." if left else ""
    return Section(leg, f"{workflow.name}: every write, every fault", matrix(outcomes) + said, tuple(broken))
