"""Every write of a workflow times every fault."""

from __future__ import annotations

from pathlib import Path

from tests.faultproxy import runs
from tests.faultproxy.kubelet import PodStatuses
from tests.faultproxy.lane import client_of, ground
from tests.faultproxy.page import Section, matrix
from tests.faultproxy.workflows import BACK_UP, SERVE, TUNE, Workflow

PROMISED_SECONDS = 15.0
LANES, AT_ONCE = 4, 6


def serve(directory: Path, *, long: bool) -> Section:
    """The matrix of an LLMDeployment; `long` changes nothing."""
    del long
    return _run(directory, "serve", SERVE)


def tune(directory: Path, *, long: bool) -> Section:
    """The matrix of a FineTuneJob; `long` changes nothing."""
    del long
    return _run(directory, "tune", TUNE)


def back_up(directory: Path, *, long: bool) -> Section:
    """The matrix of a ModelBackup; `long` changes nothing."""
    del long
    return _run(directory, "backup", BACK_UP)


def _run(directory: Path, leg: str, workflow: Workflow) -> Section:
    with ground() as plane, PodStatuses(client_of(plane.kubeconfig)) as pods:
        found = runs.references(plane, directory, pods, [workflow])
        outcomes = runs.outcomes(plane, directory, pods, found, runs.points(found), lanes=LANES, at_once=AT_ONCE)
    wrong = [f"{each.point} ({each.write}): {each.problem}" for each in outcomes if each.problem]
    late = [each for each in outcomes if each.point.fault.kills and each.seconds > PROMISED_SECONDS]
    broken = [*wrong[:20], *[f"{len(late)} took longer than 15 s from the restart"] * bool(late)]
    title = f"{workflow.name}: every write, every fault"
    return Section(leg, title, matrix(outcomes), tuple(broken))
