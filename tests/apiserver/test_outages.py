"""A little of each leg of `make faults` that is not about single writes."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

import pytest

from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually
from llmops.shell.handlers import WATCHED
from llmops.shell.leadership import LEASE_SECONDS
from llmops.shell.process import LEASE_NAME
from tests.apiserver.operating import own_plane
from tests.apiserver.points import BACKUP, Space
from tests.faultproxy.calls import Call
from tests.faultproxy.faults import Fault
from tests.faultproxy.kubelet import ARTIFACT, POINT, PodStatuses
from tests.faultproxy.lane import HARDLY_EVER, Lane, client_of, ground
from tests.faultproxy.legs import away, kopf, leader, specs, storm
from tests.faultproxy.models import Models
from tests.faultproxy.workflows import TUNE, Hands

LISTENING_AGAIN_SECONDS = 60.0  # half of it on a machine that also does something else; silence is noticed after 70

plane = own_plane(lambda _: ground())


@pytest.mark.long
def test_a_leader_that_goes_and_one_that_comes_back_as_a_zombie_write_nothing_more(
    plane: ControlPlane, directory: Path
) -> None:
    hows: dict[leader.How, int] = {signal.SIGTERM: 1, signal.SIGSTOP: 1, leader.CUT_OFF: 1}
    found = leader.measured(plane, directory, hows, pairs=1)
    assert [len(each) for each in found.times.values()] == [1, 1, 1]
    assert found.times[signal.SIGTERM][0] < LEASE_SECONDS / 2, "one that is told to go gives the Lease back"
    assert found.violations == []


@pytest.mark.parametrize(("fault", "given_back"), [(Fault.DELAY, True), (Fault.HANG, False)])
def test_a_leader_that_is_told_to_go_gives_its_lease_back_when_its_last_write_is_done_and_not_before(
    plane: ControlPlane,
    directory: Path,
    fault: Fault,
    given_back: bool,  # noqa: FBT001
) -> None:
    home, work = f"leaving-{fault}", f"leaving-{fault}-work"
    with Lane(plane, directory, home, [work]) as lane:
        told = threading.Event()

        def tell(call: Call) -> Fault | None:
            if call.resource != "deployments" or told.is_set():
                return None
            told.set()
            lane.process.send_signal(signal.SIGTERM)
            return fault

        lane.proxy.choose = tell
        models = Models(lane, 1)
        models.create()
        assert told.wait(60)
        lane.stop()
        assert lane.process.wait(60) == 0
        lease = json.loads(plane.kubectl("get", "lease", LEASE_NAME, "-n", home, "-o", "json"))
        assert (not lease["spec"].get("holderIdentity")) is given_back
        assert bool(plane.kubectl("get", "deployments", "-n", work, "-o", "name")) is given_back


def test_a_write_that_comes_after_a_newer_one_is_refused_and_judged_again(plane: ControlPlane, directory: Path) -> None:
    """As that of a process which was stopped in the instant of its write and goes on while another one leads."""
    work = "overtaken-work"
    with Lane(plane, directory, "overtaken", [work], **HARDLY_EVER) as lane:
        models = Models(lane, 1)
        models.create()
        assert models.settled() < float("inf"), models.lagging()
        late: list[Call] = []

        def hold_up(call: Call) -> Fault | None:
            if call.resource != "deployments" or late:
                return None
            late.append(call)
            return Fault.DELAY

        newer = ("-n", work, "by=other")
        lane.proxy.struck[work] = lambda call: plane.kubectl("annotate", f"deployment/{call.name}", *newer)
        lane.proxy.choose = hold_up
        models.change(*models.wanted)
        assert models.settled() < float("inf"), models.lagging()
        assert late[0].status == 409


def test_kopf_does_not_fall_silent_when_its_watches_meet_nothing_but_503(plane: ControlPlane, directory: Path) -> None:
    finite = kopf.finding(plane, directory, sys.executable, "finite", endless=False)
    assert not finite.silent, finite
    endless = kopf.finding(plane, directory, sys.executable, "endless", endless=True)
    assert endless.heard, endless


@pytest.mark.long
@pytest.mark.parametrize(("code", "reason"), [(500, "InternalError"), (410, "Expired")])
def test_a_change_is_followed_soon_after_an_error_in_every_watch(
    plane: ControlPlane, directory: Path, code: int, reason: str
) -> None:
    name = f"error-{code}"
    with Lane(plane, directory, name, [f"{name}-work"], **HARDLY_EVER) as lane:
        models = Models(lane, 2)
        models.create()
        assert models.settled() < float("inf"), models.lagging()
        process = lane.process.pid
        assert lane.proxy.watches.fail(code, reason) > len(WATCHED)
        for model in models.wanted:
            models.change(model)
        assert models.settled(LISTENING_AGAIN_SECONDS) < float("inf"), models.lagging()
        assert (lane.exits, lane.process.pid) == ([], process)


def test_updates_survive_a_storm_of_conflicts(plane: ControlPlane, directory: Path) -> None:
    found = storm.stormed(plane, directory, "conflicts", Fault.CONFLICT, 3)
    assert found["refused"] > 0
    assert found["lost"] == 0


@pytest.mark.long
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


@pytest.mark.long
def test_what_a_run_leaves_is_recorded_although_its_end_is_heard_of_before_its_pods(
    plane: ControlPlane, directory: Path
) -> None:
    client = client_of(plane.kubeconfig)
    waits = PodStatuses(client, waiting=("training", "backup"))
    with waits as pods, Lane(plane, directory, "late", ["late-work"]) as lane:
        hands, space = Hands(client, pods, "late-work", lane.name), Space(plane, "late-work")
        create = TUNE.steps[0]
        create.act(hands)
        space.deploy({name: value for name, value in BACKUP.items() if name != "schedule"})
        space.apply("ModelBackup", "now", {"deployment": "support", "point": "2026-11-20T03:00:00Z"})
        eventually(lambda: create.done(hands.read("finetunejobs")), "the training")
        eventually(lambda: "now-point" in space.names("jobs"), "the backup")
        lane.proxy.watches.hold(("pods",))
        pods.finish(hands.namespace)
        space.wait("ftj", "m", "Complete", "Completed")
        space.wait("mbak", "now", "Complete", "Completed")
        assert space.get("ftj", "m")["status"].get("artifact", {}).get("digest") == ARTIFACT["digest"]
        assert space.get("mbak", "now")["status"].get("digest") == POINT["digest"]
        lane.proxy.watches.release()
