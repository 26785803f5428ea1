"""A whole matrix, or a sample of it: references, lanes and points put together."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

from hack.cluster.controlplane import ControlPlane
from tests.faultproxy.faults import ENDING, Fault
from tests.faultproxy.kubelet import PodStatuses
from tests.faultproxy.lane import Lane, client_of
from tests.faultproxy.matrix import Outcome, Point, Reference, Run, reference, run_lane
from tests.faultproxy.workflows import WORKFLOWS, Hands, Workflow

SPARE = 4  # namespaces of a lane that may be left in a state that is not as it should be


def references(
    plane: ControlPlane, directory: Path, pods: PodStatuses, workflows: Sequence[Workflow] = WORKFLOWS
) -> dict[str, Reference]:
    """Every workflow once, without faults, side by side."""
    client = client_of(plane.kubeconfig)
    spaces = [f"lane-ref-{number}" for number in range(len(workflows))]
    with Lane(plane, directory, "lane-ref", spaces) as lane, ThreadPoolExecutor(len(workflows)) as pool:
        runs = [
            pool.submit(reference, lane, Hands(client, pods, space, lane.name), workflow)
            for space, workflow in zip(spaces, workflows, strict=True)
        ]
        found = {run.result().workflow.name: run.result() for run in runs}
        assert lane.proxy.standing.violations == []
        assert lane.exits == []
    return found


def points(found: dict[str, Reference]) -> list[Point]:
    """Every write of every workflow times every fault; those that end the object, in the step that creates it."""
    return [
        Point(reference.workflow, step, number + 1, fault)
        for reference in found.values()
        for step, writes in reference.writes.items()
        for number in range(len(writes))
        for fault in Fault
        if step == "create" or fault not in ENDING
    ]


def sample(found: dict[str, Reference], *, count: int, kills: int) -> list[Point]:
    """About `count` points, spread over workflows, writes and faults; `kills` of them kill."""
    every = points(found)
    killing = [point for point in every if point.fault.kills]
    others = [point for point in every if not point.fault.kills]
    return [*_spread(killing, kills), *_spread(others, count - kills)]


def _spread(every: Sequence[Point], count: int) -> list[Point]:
    """Points at equal distances; the odd step walks through the faults as well as the writes."""
    step = max(1, len(every) // count) | 1
    return list(every[::step])[:count]


def packed(chosen: Sequence[Point]) -> list[Run]:
    """The points as runs: one of each step together, those that kill and those that delete apart."""
    found: list[Run] = []
    for kind in (_is_calm, lambda point: point.fault.kills):
        for workflow in dict.fromkeys(point.workflow.name for point in chosen):
            mine = [point for point in chosen if point.workflow.name == workflow and kind(point)]
            steps = dict.fromkeys(point.step for point in mine)
            columns = [[point for point in mine if point.step == step] for step in steps]
            rows = zip_longest(*columns)
            found += [tuple(point for point in row if point) for row in rows]
    return found + [(point,) for point in chosen if point.fault == Fault.DELETED]


def _is_calm(point: Point) -> bool:
    return not point.fault.kills and point.fault != Fault.DELETED


def outcomes(
    plane: ControlPlane,
    directory: Path,
    pods: PodStatuses,
    found: dict[str, Reference],
    chosen: Sequence[Point],
    *,
    lanes: int,
    at_once: int,
    seconds: float = math.inf,
) -> list[Outcome]:
    """Run the points on that many lanes side by side, `at_once` of each lane's runs at a time.

    No run is begun when `seconds` have passed: what is left out then is spread over all of them.
    """
    every = packed(chosen)
    random.Random(7).shuffle(every)
    with ExitStack() as stack, ThreadPoolExecutor(lanes) as pool:

        def one(number: int) -> list[Outcome]:
            mine = every[number::lanes]
            spaces = [f"lane-{number}-{each}" for each in range(min(len(mine), at_once + SPARE))]
            lane = Lane(plane, directory, f"lane-{number}", spaces)
            stack.enter_context(lane)
            return run_lane(lane, pods, mine, found, at_once=at_once, seconds=seconds)

        return [outcome for done in pool.map(one, range(lanes)) for outcome in done]
