"""Every write of every workflow times every fault."""

from __future__ import annotations

from pathlib import Path

from tests.faultproxy import runs
from tests.faultproxy.kubelet import PodStatuses
from tests.faultproxy.lane import client_of, ground
from tests.faultproxy.page import Section, matrix

PROMISED_SECONDS = 15.0


def run(directory: Path, *, long: bool) -> Section:
    """The whole matrix; `long` changes nothing."""
    del long
    with ground() as plane, PodStatuses(client_of(plane.kubeconfig)) as pods:
        found = runs.references(plane, directory, pods)
        outcomes = runs.outcomes(plane, directory, pods, found, runs.points(found), lanes=4, at_once=4)
    wrong = [f"{each.point} ({each.write}): {each.problem}" for each in outcomes if each.problem]
    late = [each for each in outcomes if each.point.fault.kills and each.seconds > PROMISED_SECONDS]
    broken = [*wrong[:20], *[f"{len(late)} took longer than 15 s from the restart"] * bool(late)]
    return Section("writes", "Every write, every fault", matrix(outcomes), tuple(broken))
