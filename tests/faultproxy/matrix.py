"""Every write of a workflow times every fault, and whether the world looks afterwards as if nothing had happened."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import unified_diff
from functools import partial
from queue import Empty, SimpleQueue

from hack.waiting import eventually
from tests.faultproxy.calls import Call
from tests.faultproxy.faults import ENDING, Fault
from tests.faultproxy.kubelet import PodStatuses
from tests.faultproxy.lane import Lane, client_of
from tests.faultproxy.workflows import PATIENCE_SECONDS, Hands, State, Step, Workflow, orphans

POLL_SECONDS = 0.4
QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class Point:
    """A fault at the nth write after a step of a workflow was taken, from 1."""

    workflow: Workflow
    step: str
    number: int
    fault: Fault

    def __str__(self) -> str:
        return f"{self.workflow.name}, {self.step}, write {self.number}: {self.fault}"


Run = tuple[Point, ...]  # at most one point per step, in the order of the steps


@dataclass
class Outcome:
    """What came of a point.

    `write` is the write the fault struck, empty when the step had fewer writes; `seconds` is how long the state of
    that step took to become the one of a run without faults: from the start of the next operator after a kill, from
    the fault otherwise. `problem` is empty when every oracle is content.
    """

    point: Point
    write: str = ""
    seconds: float = 0.0
    problem: str = ""


@dataclass
class Reference:
    """A run without faults: what each step wrote, the state it led to, and how often each child was made."""

    workflow: Workflow
    writes: dict[str, list[str]] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    created: Counter[str] = field(default_factory=Counter)


def reference(lane: Lane, hands: Hands, workflow: Workflow) -> Reference:
    """Run a workflow without faults and remember what it looks like."""
    found = Reference(workflow)
    prepared(lane, hands, workflow)
    before_all = len(lane.proxy.writes(hands.namespace))
    for step in workflow.steps:
        before = len(lane.proxy.writes(hands.namespace))
        step.act(hands)
        eventually(partial(_done, hands, workflow, step), f"{workflow.name}: {step.name}", PATIENCE_SECONDS)
        eventually(partial(_quiet, lane, hands.namespace), f"quiet after {step.name}", PATIENCE_SECONDS)
        found.states[step.name] = workflow.state(hands)
        found.writes[step.name] = [str(call) for call in lane.proxy.writes(hands.namespace)[before:]]
    found.created = created(lane.proxy.writes(hands.namespace)[before_all:])
    return found


def prepared(lane: Lane, hands: Hands, workflow: Workflow) -> None:
    """Have what the workflow is based on, and nothing of it left to be written."""
    if workflow.prepare(hands):
        eventually(partial(_quiet, lane, hands.namespace), "quiet before the first step", PATIENCE_SECONDS)


def run(lane: Lane, hands: Hands, points: Run, expected: Reference) -> list[Outcome]:
    """One workflow with a fault in some of its steps, judged; it ends after the last of them, with a deletion."""
    workflow, outcomes = expected.workflow, []
    names = [step.name for step in workflow.steps]
    last = max(names.index(point.step) for point in points)
    due = {point.step: point for point in points}
    prepared(lane, hands, workflow)
    before = len(lane.proxy.writes(hands.namespace)), len(lane.exits)
    for step in (*workflow.steps[: last + 1], workflow.steps[-1]):
        point = due.pop(step.name, None)
        outcome, problem = _step(lane, hands, step, point, expected)
        if point:
            outcomes.append(outcome)
        if problem:
            outcomes[-1].problem = f"{step.name}: {problem}"
            return outcomes
        if point and point.fault == Fault.DELETED and outcome.write:
            break
    outcomes[-1].problem = _judged(lane, hands, points, expected, before)
    return outcomes


def _step(lane: Lane, hands: Hands, step: Step, point: Point | None, expected: Reference) -> tuple[Outcome, str]:
    """Take a step, with its fault if it has one, and wait for its state; what is wrong if it does not come."""
    workflow = expected.workflow
    outcome = Outcome(point or Point(workflow, step.name, 0, Fault.DELAY))
    struck_at: list[float] = []

    def struck(call: Call) -> None:
        outcome.write = str(call)
        struck_at.append(time.monotonic())
        if outcome.point.fault in ENDING:
            hands.delete(workflow.plural)
        if outcome.point.fault == Fault.RECREATED:
            workflow.again(hands)

    lane.proxy.struck[hands.namespace] = struck
    planned = lane.proxy.plan_next(hands.namespace, point.number, point.fault) if point else None
    step.act(hands)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        gone = point is not None and point.fault == Fault.DELETED and bool(struck_at)
        wanted = expected.states["delete" if gone else step.name]
        found = workflow.state(hands, but_only_if=wanted[""])
        if found == wanted and not orphans(workflow, hands) and (struck_at or _passed(lane, hands, planned)):
            break
        if time.monotonic() > deadline:
            left = orphans(workflow, hands)
            return outcome, f"not as without the fault: {difference(wanted, workflow.state(hands))} {left or ''}"
        time.sleep(POLL_SECONDS)
    if struck_at and point:
        outcome.seconds = time.monotonic() - (lane.begun if point.fault.kills else struck_at[0])
    return outcome, ""


def _passed(lane: Lane, hands: Hands, planned: tuple[str, int] | None) -> bool:
    """Whether no fault is due any more: it struck, or the step is over and has had fewer writes."""
    if planned is None or planned not in lane.proxy.plan:
        return True
    if _quiet(lane, hands.namespace):
        lane.proxy.plan.pop(planned, None)
        return True
    return False


def _judged(lane: Lane, hands: Hands, points: Run, expected: Reference, before: tuple[int, int]) -> str:
    """What the other oracles say after the last step; `before` are the writes and exits there had been."""
    if broken := [line for line in lane.proxy.standing.violations if f" {hands.namespace}: " in line]:
        return "; ".join(broken)
    if exits := lane.exits[before[1] :]:
        return f"operators ended by themselves: {exits}"
    more = created(lane.proxy.writes(hands.namespace)[before[0] :]) - expected.created
    if more and all(point.fault != Fault.RECREATED for point in points):
        return f"created once more than needed: {dict(more)}"
    return ""


def created(calls: Iterable[Call]) -> Counter[str]:
    """How often each child was made."""
    return Counter(f"{call.resource}/{call.name}" for call in calls if call.status == 201 and call.resource != "events")


def difference(wanted: State, found: State) -> str:
    """The first lines in which two states differ."""
    before, after = (json.dumps(state, indent=1, sort_keys=True).splitlines() for state in (wanted, found))
    lines = [
        line for line in unified_diff(before, after, lineterm="", n=0) if not line.startswith(("---", "+++", "@@"))
    ]
    return " | ".join(" ".join(line.split()) for line in lines[:12])


def _quiet(lane: Lane, namespace: str) -> bool:
    """Whether nothing was written for a while."""
    before = len(lane.proxy.writes(namespace))
    time.sleep(QUIET_SECONDS)
    return len(lane.proxy.writes(namespace)) == before


def _done(hands: Hands, workflow: Workflow, step: Step) -> bool:
    return step.done(hands.read(workflow.plural)) and (step.name != "delete" or not list(hands.children()))


def run_lane(
    lane: Lane,
    pods: PodStatuses,
    runs: Iterable[Run],
    references: dict[str, Reference],
    *,
    at_once: int,
    seconds: float = math.inf,
) -> list[Outcome]:
    """Do the runs on one lane: those that kill one after the other, the others `at_once` at a time.

    None is begun when `seconds` have passed; those that kill have half of them.

    A run that went well leaves its namespace empty, and the next one takes it: an operator that follows a hundred
    namespaces holds a thousand watches, and it is them that would be tried.
    """
    client, begun = client_of(lane.administrator), time.monotonic()
    work, spaces = list(runs), SimpleQueue[str]()
    for namespace in lane.namespaces:
        spaces.put(namespace)

    def one(points: Run) -> list[Outcome]:
        if time.monotonic() - begun > (seconds / 2 if points[0].fault.kills else seconds):
            return []
        try:
            namespace = spaces.get_nowait()
        except Empty:
            return [Outcome(points[0], problem="not run: too much had gone wrong on its lane")]
        hands = Hands(client, pods, namespace, lane.name)
        pods.begin(hands.namespace)
        try:
            outcomes = run(lane, hands, points, references[points[0].workflow.name])
        except Exception as error:  # noqa: BLE001 - a point that breaks the harness is an outcome, too
            return [Outcome(points[0], problem=f"{type(error).__name__}: {error}")]
        if not any(outcome.problem for outcome in outcomes):
            spaces.put(hands.namespace)
        return outcomes

    outcomes = [one(points) for points in work if points[0].fault.kills]
    with ThreadPoolExecutor(at_once) as pool:
        outcomes += pool.map(one, [points for points in work if not points[0].fault.kills])
    return [outcome for some in outcomes for outcome in some]
