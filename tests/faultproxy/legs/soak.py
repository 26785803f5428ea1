"""Events for a long time: nothing is kept."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from hack.cluster.controlplane import ControlPlane
from tests.faultproxy.lane import Lane, ground
from tests.faultproxy.models import Models
from tests.faultproxy.page import Section

GROWTH_PROMISED = 1.0  # MB an hour; told of the long run only: within minutes an allocator has not settled
SAMPLES = 30
EVENTS_PER_SECOND = 10
ROLLED = 7  # every so many changes make new pods; no divisor of the number of objects: each has its turn


def memory(pid: int) -> float:
    """Resident memory of a process, in MB."""
    fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1024


def soaked(plane: ControlPlane, directory: Path, objects: int, seconds: float) -> tuple[list[float], int]:
    """Memory in MB, SAMPLES times evenly over the last nine tenths of the time, and how many events there were."""
    with Lane(plane, directory, "soak", ["soak-work"]) as lane:
        models = Models(lane, objects)
        models.create()
        models.settled()
        names = list(models.wanted)
        begun, events, seen = time.monotonic(), 0, list[float]()
        while (passed := time.monotonic() - begun) < seconds:
            name = names[events % objects]
            if events % ROLLED:
                models.touch(name, 1 + events % 10_000)
            else:
                models.change(name)
            events += 1
            if passed > seconds * (0.1 + 0.9 * len(seen) / SAMPLES):
                seen.append(memory(lane.process.pid))
                print(f"{passed:.0f} s: {seen[-1]:.1f} MB", flush=True)  # noqa: T201 - somebody waits for hours
            time.sleep(max(0.0, begun + events / EVENTS_PER_SECOND - time.monotonic()))
        assert models.settled() < float("inf"), models.lagging()
        assert lane.exits == []
        assert lane.proxy.standing.violations == []
        return seen, events


def run(directory: Path, *, long: bool) -> Section:
    objects, seconds = (500, 7200) if long else (100, 600)
    with ground() as plane:
        seen, events = soaked(plane, directory, objects, seconds)
    hours = [0.9 * number * seconds / SAMPLES / 3600 for number in range(len(seen))]
    growth = statistics.linear_regression(hours, seen).slope
    text = f"""{objects} objects, {events} changes in {seconds:.0f} s, {EVENTS_PER_SECOND} a second where the machine
can; one in {ROLLED} makes new pods. Memory
{seen[0]:.1f} MB after a tenth of the time, {seen[-1]:.1f} MB at its end, {min(seen):.1f} to {max(seen):.1f} between:
a line through {len(seen)} readings rises by {growth:+.1f} MB an hour."""
    broken = [f"{growth:.1f} MB an hour"] * (long and growth > GROWTH_PROMISED)
    return Section("soak", "A soak", text, tuple(broken))
