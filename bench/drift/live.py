"""The conversation trace in its own order through a real gateway, at several times its speed, watched by everything.

    python -m bench.drift.live [--only trace|mix] [--json FILE]

Real processes: gateway, API server, operator, Prometheus 3 and 2.42 with an Alertmanager each. Only time is short: a
window is a minute, its patience a quarter of that, as an hour's is fifteen minutes. Eight minutes for the trace and
four for the mix; needs an otherwise idle machine, or too few requests are sent to judge. Ends with 1 unless the quiet
part is quiet, the second workload is told on completion tokens by everybody, and its end is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.drift.__main__ import AFTER, BURST, LESSON, QUIET
from tests.integration.drift.live import Request, completing, conversation
from tests.integration.drift.watched import Rig, rigged

LESSON_PER_SECOND, PER_SECOND = 11, 30
PATIENCE_SECONDS = 15
MIXED_SECONDS, CALM_SECONDS = 180, 240
PARTS = ("trace", "mix")


@dataclass
class Phase:
    """What was seen while some part of the traffic was sent."""

    name: str
    requests: int = 0
    seconds: float = 0.0
    conditions: list[str] = field(default_factory=list)
    alerts: list[list[str]] = field(default_factory=lambda: [[], []])  # signals, by Prometheus 3 and 2.42
    message: str = ""

    def look(self, rig: Rig) -> None:
        """Note what everybody says now."""
        said = rig.drifted()
        if said and (not self.conditions or self.conditions[-1] != said["reason"]):
            self.conditions.append(said["reason"])
            self.message = said["message"] if said["status"] == "True" else self.message
        for known, server in zip(self.alerts, rig.servers, strict=True):
            known.extend(sorted({alert["labels"]["signal"] for alert in server.alerts()} - set(known)))

    @property
    def quiet(self) -> bool:
        """Whether nobody was told anything."""
        return self.alerts == [[], []] and "Drifting" not in self.conditions


def sent(rig: Rig, name: str, requests: Sequence[Request]) -> Phase:
    """Send these once."""
    phase, began, first = Phase(name), time.monotonic(), rig.load.sent
    rig.load.of(requests, PER_SECOND)
    while (done := rig.load.sent - first) < len(requests):
        phase.look(rig)
        time.sleep(0.5)
    phase.requests, phase.seconds = done, time.monotonic() - began
    return told(phase)


def until(rig: Rig, name: str, requests: Sequence[Request], *, drifting: bool, seconds: float) -> Phase:
    """Send these until everybody says so, or the time is over."""
    phase, began, first = Phase(name), time.monotonic(), rig.load.sent
    rig.load.of(requests, PER_SECOND)
    agreed = False
    while not agreed and time.monotonic() < began + seconds:
        phase.look(rig)
        alerting = [bool(server.alerts()) for server in rig.servers]
        agreed = alerting == [drifting, drifting] and (rig.drifted().get("status") == "True") == drifting
        time.sleep(0.5)
    phase.requests, phase.seconds = rig.load.sent - first, time.monotonic() - began
    return told(phase)


def told(phase: Phase) -> Phase:
    """Print it."""
    three, two = (", ".join(signals) or "none" for signals in phase.alerts)
    conditions = " > ".join(phase.conditions)
    print(f"| {phase.name} | {phase.requests} | {phase.seconds:.0f} s | {conditions} | {three} | {two} |", flush=True)
    return phase


def replayed(home: Path, parts: Sequence[str]) -> list[Phase]:
    """What was learned from once more; then the rest of the trace; then a second workload, and none again."""
    trace = conversation(None)
    usual = trace[LESSON]
    mixed = completing(usual, 3, share=0.2)
    phases = list[Phase]()
    print("| traffic | requests | took | Drifted | alerts, Prometheus 3 | 2.42 |\n" + "| --- " * 6 + "|")
    with rigged(home, usual, per_second=LESSON_PER_SECOND, persistence_seconds=PATIENCE_SECONDS) as rig:
        phases.append(sent(rig, "quiet, as learned", usual[-1800:]))
        if "trace" in parts:
            phases.append(sent(rig, "its 20-minute burst", trace[BURST]))
            phases.append(sent(rig, "after the burst", trace[AFTER]))
            phases.append(sent(rig, "quiet again", trace[QUIET]))
            phases.append(until(rig, "as learned", usual, drifting=False, seconds=CALM_SECONDS))
        if "mix" in parts:
            phases.append(until(rig, "a second workload, 20 %", mixed, drifting=True, seconds=MIXED_SECONDS))
            phases.append(until(rig, "as learned again", usual, drifting=False, seconds=CALM_SECONDS))
    return phases


def good(phases: Sequence[Phase], parts: Sequence[str]) -> bool:
    """Whether the quiet was quiet, the second workload was told by everybody, and every end was."""
    ended = all(each.conditions[-1:] == ["Armed"] for each in phases if each.name.startswith("as learned"))
    if "mix" in parts:
        mixed = phases[-2]
        ended &= all("CompletionTokens" in signals for signals in mixed.alerts) and "Drifting" in mixed.conditions
    return phases[0].quiet and ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--json", type=Path, help="write what was seen here")
    arguments = parser.parse_args()
    parts = (arguments.only,) if arguments.only else PARTS
    with tempfile.TemporaryDirectory() as home:
        phases = replayed(Path(home), parts)
    print("\n".join(["", *(each.message for each in phases if each.message)]))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in phases], indent=1) + "\n")
    if not good(phases, parts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
