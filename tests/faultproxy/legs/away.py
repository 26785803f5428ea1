"""The API server goes away and comes back: nobody ends, and work goes on at once."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import httpx

from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually
from tests.faultproxy.lane import Lane, ground
from tests.faultproxy.models import Models
from tests.faultproxy.page import Section, table

PROMISED_SECONDS = 5.0


def absence(
    plane: ControlPlane, directory: Path, *, objects: int, seconds: float
) -> tuple[float, float, list[int], list[str]]:
    """Seconds from readyz to the first object that follows a change, and to the last of all; exits; violations."""
    name = f"away-{seconds:.0f}"
    with Lane(plane, directory, name, [f"{name}-work"]) as lane:
        models = Models(lane, objects)
        models.create()
        assert models.settled() < float("inf"), models.lagging()
        plane.stop_apiserver()
        time.sleep(seconds)
        plane.start_apiserver()
        ready = time.monotonic()
        first, *others = models.wanted
        eventually(partial(changed, models, first), f"{first} to be changed", 60)
        eventually(lambda: first not in models.lagging(), "the first to follow", 120)
        followed = time.monotonic() - ready
        for each in others:
            eventually(partial(changed, models, each), f"{each} to be changed", 60)
        models.settled()
        return followed, time.monotonic() - ready, lane.exits, lane.proxy.standing.violations


def changed(models: Models, name: str) -> bool:
    """Change an object; false while the server that has just come up refuses."""
    try:
        models.change(name)
    except httpx.HTTPError:
        return False
    return True


def run(directory: Path, *, long: bool) -> Section:
    rows, broken = [], []
    for seconds in (5, 60, 600) if long else (5, 60):
        with ground() as plane:
            first, last, exits, violations = absence(plane, directory, objects=200, seconds=seconds)
        rows.append([f"{seconds} s", 200, f"{first:.1f}", f"{last:.1f}", len(exits)])
        broken += [f"{len(exits)} exits"] * bool(exits) + violations
        broken += [f"{first:.1f} s until the first reconcile"] * (first > PROMISED_SECONDS)
    head = ["away for", "objects", "first follows after, s", "all follow after, s", "operator exits"]
    text = "One object is changed as soon as the API server is ready again, then all; the seconds count from there."
    return Section("away", "The API server is away", f"{table(head, rows)}\n\n{text}", tuple(broken))
