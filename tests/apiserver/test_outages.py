"""A little of each leg of `make faults` that is not about single writes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.controlplane import ControlPlane
from tests.faultproxy.faults import Fault
from tests.faultproxy.lane import client_of, ground
from tests.faultproxy.legs import away, kopf, leader, specs, storm


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outages")


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ground() as plane:
        yield plane


def test_a_leader_that_goes_and_one_that_comes_back_as_a_zombie_write_nothing_more(
    plane: ControlPlane, directory: Path
) -> None:
    times, violations, _ = leader.measured(plane, directory, {signal.SIGTERM: 1, signal.SIGSTOP: 1}, pairs=1)
    assert [len(each) for each in times.values()] == [1, 1]
    assert violations == []


def test_kopf_does_not_fall_silent_when_its_watches_meet_nothing_but_503(plane: ControlPlane, directory: Path) -> None:
    finite = kopf.finding(plane, directory, sys.executable, "finite", endless=False)
    assert not finite.silent, finite
    endless = kopf.finding(plane, directory, sys.executable, "endless", endless=True)
    assert endless.heard, endless


def test_updates_survive_a_storm_of_conflicts(plane: ControlPlane, directory: Path) -> None:
    found = storm.stormed(plane, directory, "conflicts", Fault.CONFLICT, 6)
    assert found["refused"] > 0
    assert found["lost"] == 0


def test_an_api_server_that_is_away_for_longer_than_the_lease_is_sure_ends_nobody(
    plane: ControlPlane, directory: Path
) -> None:
    *_, exits, violations = away.absence(plane, directory, objects=4, seconds=9)
    assert exits == []
    assert violations == []


def test_a_spec_nobody_should_write_is_refused_with_its_field_or_does_no_harm(plane: ControlPlane) -> None:
    client = client_of(plane.kubeconfig)
    counts = specs.all_judged(client, 150, seed=2)
    assert [verdict for verdict in counts if verdict.outcome == "wrong"] == []
    _, pods, refused = specs.restricted(client, 40)
    assert pods > 0
    assert refused == []
