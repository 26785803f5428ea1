"""Three writes of ten refused, at random: nothing is lost, and not much more is asked."""

from __future__ import annotations

import random
import time
from pathlib import Path

from hack.cluster.controlplane import ControlPlane
from tests.faultproxy.calls import Call
from tests.faultproxy.faults import RETRY_AFTER_SECONDS, Fault
from tests.faultproxy.lane import Lane, ground
from tests.faultproxy.models import Models
from tests.faultproxy.page import Section, table

CALLS_PROMISED = 1.5
PATIENCE_SECONDS = 120.0  # two generations of all objects, a third of every attempt in vain


def stormed(plane: ControlPlane, directory: Path, name: str, fault: Fault | None, objects: int) -> dict[str, float]:
    """Create and change objects under the storm: calls and writes it took, updates lost, hasty repetitions."""
    chance = random.Random(7)
    refused: dict[str, float] = {}
    hasty = 0

    def choose(call: Call) -> Fault | None:
        nonlocal hasty
        if call.is_lease or call.resource == "events":
            return None
        key = str(call)
        hasty += key in refused and time.monotonic() - refused.pop(key) < RETRY_AFTER_SECONDS - 0.1
        if chance.random() < 0.3:
            refused[key] = time.monotonic()
            return fault
        return None

    with Lane(plane, directory, name, [f"{name}-work"]) as lane:
        models = Models(lane, objects)
        if fault:
            lane.proxy.choose = choose
        begun = time.monotonic()
        models.create()
        models.settled()
        for model in models.wanted:
            models.change(model)
        models.settled()
        calls = [call for call in lane.proxy.calls if call.namespace == models.hands.namespace and not call.is_lease]
        assert lane.exits == []
        assert lane.proxy.standing.violations == [], lane.proxy.standing.violations
        return {
            "seconds": time.monotonic() - begun,
            "calls": len([call for call in calls if call.verb != "list"]),
            "writes": sum(call.writes for call in calls),
            "refused": sum(bool(call.fault) for call in calls),
            "lost": len(models.lagging()),
            "hasty": hasty,
        }


def run(directory: Path, *, long: bool) -> Section:
    objects = 200 if long else 50
    with ground() as plane:
        found = {
            "none": stormed(plane, directory, "calm", None, objects),
            "409": stormed(plane, directory, "conflicts", Fault.CONFLICT, objects),
            "429, Retry-After: 2": stormed(plane, directory, "throttled", Fault.THROTTLED, objects),
        }
    calm = found["none"]
    rows, broken = [], []
    for name, each in found.items():
        more = each["calls"] / calm["calls"]
        early = each["hasty"] if name.startswith("429") else 0
        rows.append(
            [
                name,
                objects,
                *(int(each[key]) for key in ("writes", "refused")),
                f"{more:.2f}",
                early,
                f"{each['seconds']:.0f}",
                int(each["lost"]),
            ]
        )
        broken += [f"{name}: {more:.2f} times the calls"] * (more > CALLS_PROMISED)
        broken += [f"{name}: {each['seconds']:.0f} s"] * (each["seconds"] > PATIENCE_SECONDS)
        broken += [f"{name}: {each['lost']} lost"] * bool(each["lost"]) + [f"{name}: {early} too early"] * bool(early)
    head = [
        "30 % of the writes answered",
        "objects",
        "writes",
        "refused",
        "calls, of calm",
        "repeated too early",
        "all followed after, s",
        "lost",
    ]
    return Section("storm", "Conflicts and throttling", table(head, rows), tuple(broken))
