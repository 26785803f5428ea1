"""Events for a long time: nothing is kept."""

from __future__ import annotations

import time
from pathlib import Path

from hack.cluster.controlplane import ControlPlane
from tests.faultproxy.lane import Lane, ground
from tests.faultproxy.models import Models
from tests.faultproxy.page import Section

GROWTH_PROMISED = 1.0  # MB an hour; told of the long run only: within minutes an allocator has not settled


def memory(pid: int) -> float:
    """Resident memory of a process, in MB."""
    fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1024


def soaked(plane: ControlPlane, directory: Path, objects: int, seconds: float) -> tuple[float, float, int]:
    """Memory after a tenth of the time and at its end, in MB, and how many events there were between."""
    with Lane(plane, directory, "soak", ["soak-work"]) as lane:
        models = Models(lane, objects)
        models.create()
        models.settled()
        names = list(models.wanted)
        begun, events, first = time.monotonic(), 0, 0.0
        while (passed := time.monotonic() - begun) < seconds:
            models.change(names[events % objects])
            events += 1
            if not first and passed > seconds / 10:
                first = memory(lane.process.pid)
            time.sleep(max(0.0, begun + events / 10 - time.monotonic()))
        assert lane.exits == []
        assert lane.proxy.standing.violations == []
        return first, memory(lane.process.pid), events


def run(directory: Path, *, long: bool) -> Section:
    objects, seconds = (500, 7200) if long else (100, 600)
    with ground() as plane:
        first, last, events = soaked(plane, directory, objects, seconds)
    growth = (last - first) / (seconds * 0.9 / 3600)
    text = f"""{objects} objects, {events} changes in {seconds:.0f} s, ten a second where the machine can. Memory
{first:.1f} MB after a tenth of the time, {last:.1f} MB at its end: {growth:+.1f} MB an hour, if it went on like
this."""
    broken = [f"{growth:.1f} MB an hour"] * (long and growth > GROWTH_PROMISED)
    return Section("soak", "A soak", text, tuple(broken))
