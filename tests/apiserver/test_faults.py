"""Forty faults at forty writes: afterwards everything is as if nothing had happened. `make faults` runs them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.controlplane import ControlPlane
from tests.apiserver.operating import own_plane
from tests.faultproxy import runs
from tests.faultproxy.kubelet import PodStatuses
from tests.faultproxy.lane import client_of, ground
from tests.faultproxy.matrix import Outcome, Reference

COUNT, KILLS = 40, 4


plane = own_plane(lambda _: ground())


@pytest.fixture(scope="module")
def pods(plane: ControlPlane) -> Iterator[PodStatuses]:
    with PodStatuses(client_of(plane.kubeconfig)) as pods:
        yield pods


@pytest.fixture(scope="module")
def references(plane: ControlPlane, directory: Path, pods: PodStatuses) -> dict[str, Reference]:
    return runs.references(plane, directory, pods)


@pytest.mark.long
@pytest.mark.timeout(1800)  # a machine that also does something else starts an operator in a minute
def test_a_fault_at_any_write_changes_nothing_in_the_end(
    plane: ControlPlane, directory: Path, pods: PodStatuses, references: dict[str, Reference]
) -> None:
    chosen = runs.sample(references, count=COUNT, kills=KILLS)
    outcomes = runs.outcomes(plane, directory, pods, references, chosen, lanes=2, at_once=10)
    assert [described(outcome) for outcome in outcomes if outcome.problem] == []
    assert len([outcome for outcome in outcomes if outcome.write]) > COUNT * 3 / 4  # the faults did strike


def described(outcome: Outcome) -> str:
    return f"{outcome.point} ({outcome.write}): {outcome.problem}"
