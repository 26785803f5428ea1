"""Two replicas around one Lease: killed, ended, and stopped for longer than the Lease lasts, under changes."""

from __future__ import annotations

import itertools
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually
from llmops.shell.leadership import LEASE_SECONDS
from tests.faultproxy.lane import Site, ground
from tests.faultproxy.models import Models
from tests.faultproxy.page import Section, table
from tests.faultproxy.proxy import FaultProxy

PATIENCE_SECONDS = 180
How = signal.Signals | Literal["cut off"]
CUT_OFF: How = "cut off"
CLOCKS = ("", "+1h", "-1h")  # of the replicas, in turn
HOWS: dict[How, str] = {
    signal.SIGKILL: "kill -9",
    signal.SIGTERM: "SIGTERM",
    signal.SIGSTOP: "SIGSTOP, continued later",
    CUT_OFF: "cut off from the API server, connected again later",
}
PROMISED: dict[How, float] = {signal.SIGKILL: 12.0, signal.SIGTERM: 1.5, signal.SIGSTOP: 12.0, CUT_OFF: 12.0}


class Pair:
    """Two replicas of which one leads; a third is never there."""

    def __init__(self, site: Site, clocks: Sequence[str] = ("",)) -> None:
        self.site, self._clocks = site, clocks
        self._count = 0
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.add()
        eventually(self.leader, "a leader", PATIENCE_SECONDS)
        self.add()

    def add(self) -> None:
        """Start a replica in a pod of its own and wait until it stands by or leads."""
        name = f"{self.site.name}-{self._count}"
        asked = len(self.site.proxy.calls)
        self.running[name] = self.site.start(name, clock=self._clocks[self._count % len(self._clocks)])
        eventually(
            lambda: any(call.source == name and call.is_lease for call in self.site.proxy.calls[asked:]),
            f"{name} to ask for the Lease",
            PATIENCE_SECONDS,
        )
        self._count += 1

    def leader(self) -> str:
        return self.site.proxy.standing.leader

    def end(self, how: How) -> float:
        """Do it to the leader; the seconds until the other one holds the Lease."""
        old, proxy = self.leader(), self.site.proxy
        process = self.running.pop(old)
        (other,) = self.running
        begun = time.monotonic()
        if not isinstance(how, signal.Signals):
            proxy.cut_off.add(old)
            proxy.watches.cut(source=old)
        else:
            process.send_signal(how)
        eventually(lambda: self.leader() == other, f"{other} to lead", PATIENCE_SECONDS)
        taken = time.monotonic() - begun
        if how in (signal.SIGSTOP, CUT_OFF):
            time.sleep(max(0.0, LEASE_SECONDS * 1.5 - taken))  # a zombie for longer than any Lease
            proxy.cut_off.discard(old)
            if how == signal.SIGSTOP:
                process.send_signal(signal.SIGCONT)
        process.wait(timeout=PATIENCE_SECONDS)
        self.add()
        return taken

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@contextmanager
def pair(plane: ControlPlane, directory: Path, name: str, clocks: Sequence[str]) -> Iterator[Pair]:
    """A pair with a user who changes something five times a second."""
    with Site(plane, directory, name, [f"{name}-work"]) as site:
        two = Pair(site, clocks)
        models = Models(site, 5)
        models.create()
        ended = threading.Event()

        def user() -> None:
            for model in itertools.cycle(models.wanted):
                if ended.wait(0.2):
                    return
                models.change(model)

        changes = threading.Thread(target=user, daemon=True)
        changes.start()
        try:
            yield two
            ended.set()
            changes.join()
            assert models.settled() < float("inf"), models.lagging()
        finally:
            ended.set()
            two.close()


@dataclass
class Found:
    """Seconds that takeovers took, what broke a standing assertion, and of all writes those refused as too late."""

    times: dict[How, list[float]] = field(default_factory=lambda: defaultdict(list))
    violations: list[str] = field(default_factory=list)
    writes: int = 0
    too_late: int = 0


def measured(
    plane: ControlPlane, directory: Path, counts: dict[How, int], *, pairs: int, clocks: Sequence[str] = ("",)
) -> Found:
    """Takeovers by so many pairs at once, which share the counts."""
    found = Found()

    def one(number: int) -> FaultProxy:
        with pair(plane, directory, f"pair-{number}", clocks) as two:
            for how, count in counts.items():
                for _ in range(len(range(number, count, pairs))):
                    found.times[how].append(two.end(how))
            return two.site.proxy

    with ThreadPoolExecutor(pairs) as pool:
        for proxy in pool.map(one, range(pairs)):
            found.violations += proxy.standing.violations
            found.too_late += proxy.standing.too_late
            found.writes += sum(call.writes for call in proxy.calls)
    return found


def run(directory: Path, *, long: bool) -> Section:
    counts: dict[How, int] = {signal.SIGKILL: 200, signal.SIGTERM: 50, signal.SIGSTOP: 50, CUT_OFF: 50}
    if not long:
        counts = {how: count // 5 for how, count in counts.items()}
    with ground() as plane:
        found = measured(plane, directory, counts, pairs=3, clocks=CLOCKS)
    rows = [
        [HOWS[how], len(each), *(f"{at(each, share):.1f}" for share in (0.5, 0.99)), f"{PROMISED[how]:.1f}"]
        for how, each in found.times.items()
    ]
    broken = [
        f"{HOWS[how]}: p99 {at(each, 0.99):.1f} s"
        for how, each in found.times.items()
        if at(each, 0.99) > PROMISED[how]
    ]
    body = table(["what happens to the leader", "times", "takeover, median s", "p99 s", "promised"], rows)
    body += "\n\nThe replicas' wall clocks are right, an hour ahead and an hour behind, in turn."
    body += f""" {found.writes} writes.
Carried out for a process that did not hold the Lease, or otherwise wrong: {len(found.violations)}. Sent by a process
that was stopped in the instant of its write, and refused because another had written meanwhile: {found.too_late}."""
    return Section("leader", "Two replicas", body, (*broken, *found.violations[:5]))


def at(values: Sequence[float], share: float) -> float:
    """A percentile, by the nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
