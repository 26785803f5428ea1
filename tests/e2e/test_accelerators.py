"""Engines that ask for accelerators a node does not have, or has no more of: real placement of real vLLM."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hack.waiting import eventually
from tests.e2e.conftest import Space, ask

pytestmark = pytest.mark.timeout(1800)


def test_the_third_of_two_gpus_waits_and_says_what_is_free(space: Space, gpus: Callable[[int], None]) -> None:
    def both_are_ready() -> bool:
        return bool(space.get("llmd", "pair").get("status", {}).get("readyReplicas") == 2)

    gpus(2)
    space.apply("pair", accelerator={"profile": "gpu"}, replicas=2)
    eventually(both_are_ready, "two ready replicas", 600)
    space.apply("third", accelerator={"profile": "gpu"})
    waiting = space.wait("third", "WaitingForGPU")
    assert waiting["status"] == "False"
    assert "0 of 2 free" in waiting["message"]
    space.kubectl("scale", "llmd/pair", "--replicas=1")
    assert space.wait("third", "Serving")["status"] == "True"


def test_a_rollout_on_a_full_cluster_does_not_deadlock(space: Space, gpus: Callable[[int], None], gateway: str) -> None:
    gpus(1)
    space.apply("full", accelerator={"profile": "gpu"}, pod={"terminationGracePeriodSeconds": 5})
    space.wait("full", "Serving")
    before = space.pods("full")
    space.apply(
        "full", accelerator={"profile": "gpu"}, pod={"terminationGracePeriodSeconds": 5}, engine={"maxModelLen": 128}
    )
    space.wait("full", "UpToDate", "Progressing")
    assert not set(before) & set(space.pods("full"))
    assert ask(gateway, "full")["status"] == 200


def test_a_gpu_that_no_node_has_is_named(space: Space) -> None:
    space.apply("sick", accelerator={"profile": "gpu"})
    found = space.wait("sick", "WaitingForGPU")
    assert found["status"] == "False"
    assert "no node of this cluster has any" in found["message"]
