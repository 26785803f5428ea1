"""Watches that are cut, refused, filled with errors, doubled, late, older than the truth, or silent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually
from tests.faultproxy.lane import HARDLY_EVER, Lane, ground
from tests.faultproxy.models import Models
from tests.faultproxy.page import Section, table

KINDS = ("deployments", "services", "llmdeployments")  # a part of those that are followed
SILENCE_SECONDS = 75.0


class Trouble:
    """One way to trouble the watches while a user changes objects."""

    def __init__(self, lane: Lane, models: Models) -> None:
        self.lane, self.models, self.watches = lane, models, lane.proxy.watches

    def cut(self, times: int) -> str:
        done = 0
        while done < times:
            self._change()
            done += self.watches.cut()
            time.sleep(0.3)
        return f"{done} connections reset"

    def expired(self, rounds: int) -> str:
        done = 0
        for _ in range(rounds):
            self._change()
            done += self.watches.fail(410, "Expired")
            time.sleep(2)
        return f"410 in {done} streams, every 2 s"

    def error(self, rounds: int) -> str:
        done = 0
        for _ in range(rounds):
            self._change()
            done += self.watches.fail(500, "InternalError")
            time.sleep(1)
        return f"ERROR 500 in {done} streams"

    def refused(self, seconds: float) -> str:
        self.watches.refuse = 503
        self.watches.cut()
        before = self.watches.opened
        self._change()
        time.sleep(seconds)
        tried = self.watches.opened - before
        self.watches.refuse = None
        return f"every watch answered 503 for {seconds:.0f} s, {tried} tries"

    def doubled(self, rounds: int) -> str:
        self.watches.times = 2
        for _ in range(rounds):
            self._change()
        self.models.settled()
        self.watches.times = 1
        return "every event delivered twice"

    def held(self, seconds: float) -> str:
        self.watches.hold(("deployments", "pods"))
        self._change()
        time.sleep(seconds)
        self.watches.release()
        return f"Deployments and Pods {seconds:.0f} s late"

    def older(self, rounds: int) -> str:
        # A list that lacks what was made since says that it is gone: making it again, in vain, is right.
        self.lane.proxy.standing.disturb(self.models.hands.namespace)
        self.watches.old_lists = True
        for _ in range(rounds):
            self._change()
            self.watches.fail(410, "Expired")
            time.sleep(1)
        self.watches.old_lists = False
        return "every LIST answered as it was the first time"

    def _change(self) -> None:
        for name in self.models.wanted:
            self.models.change(name)


def troubled(
    plane: ControlPlane, directory: Path, name: str, act: Callable[[Trouble], str], count: int = 10
) -> list[str]:
    """What was done, and the seconds until every last state was reached; `exits` and violations raise."""
    with Lane(plane, directory, name, [f"{name}-work"], **HARDLY_EVER) as lane:
        models = Models(lane, count)
        models.create()
        assert models.settled() < float("inf"), models.lagging()
        done = act(Trouble(lane, models))
        seconds = models.settled()
        assert lane.exits == []
        assert lane.proxy.standing.violations == [], lane.proxy.standing.violations
        return [done, f"{seconds:.1f}", str(len(models.lagging()))]


def silence(plane: ControlPlane, directory: Path) -> list[str]:
    """Some watches wait for an answer that never comes, the others fall silent; then the user changes objects."""
    with Lane(plane, directory, "silent", ["silent-work"], **HARDLY_EVER) as lane:
        models = Models(lane, 3)
        models.create()
        assert models.settled() < float("inf"), models.lagging()
        lane.proxy.watches.unanswered = True
        before = lane.proxy.watches.opened
        reset = lane.proxy.watches.cut(KINDS)
        eventually(lambda: lane.proxy.watches.opened - before >= reset, "watches that wait for an answer", 60)
        lane.proxy.watches.unanswered = False
        streams = lane.proxy.watches.silence()
        begun = time.monotonic()
        for name in models.wanted:
            models.change(name)
        eventually(lambda: not models.lagging(), "the changes to be noticed", 300)
        noticed = time.monotonic() - begun
        assert lane.exits == []
        return [f"{streams} streams silent, {reset} not answered, connections open", f"{noticed:.1f}", "0"]


def run(directory: Path, *, long: bool) -> Section:
    share = 1 if long else 0.3
    acts: dict[str, Callable[[Trouble], str]] = {
        "cut": lambda trouble: trouble.cut(1000),
        "expired": lambda trouble: trouble.expired(int(50 * share)),
        "error": lambda trouble: trouble.error(int(50 * share)),
        "refused": lambda trouble: trouble.refused(60),
        "doubled": lambda trouble: trouble.doubled(10),
        "held": lambda trouble: trouble.held(10),
        "older": lambda trouble: trouble.older(10),
    }
    with ground() as plane:
        rows = [troubled(plane, directory, name, act) for name, act in acts.items()]
        rows.append(silence(plane, directory))
    broken = [f"{row[0]}: {row[2]} last states missed" for row in rows if row[2] != "0"]
    broken += [f"silence noticed after {rows[-1][1]} s"] * (float(rows[-1][1]) > SILENCE_SECONDS)
    head = ["what happens to all watches, under changes", "seconds until all is followed", "last states missed"]
    return Section("watches", "Watches", table(head, rows), tuple(broken))
