"""`make bench-reconcile`: N deployments on a real API server, the operator beside a *null writer*. JSON and a table.

Two legs: N at zero replicas, and a tenth of N with one replica each on KWOK's nodes, where scheduler, controllers and
fake kubelets answer. In each run both writers use the same client with 32 writes at once; the null writer sends the
same writes with no logic. The controllers' own client limits are raised, or they would be what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from bench.reconcile import load, nodes, writers
from bench.reconcile.process import CONFIG, OperatorProcess
from hack.cluster.controlplane import ControlPlane
from llmops.shell import connection
from llmops.shell.cluster import Cluster

Json = dict[str, object]
ROOT = Path(__file__).parents[2]
QUIET_SECONDS = 30
OURS, NULL = "bench", "null"  # the operator serves the first only
TARGETS = {
    "ratio of write rates": ("at least", 0.5),
    "writes per object beyond its children": ("at most", 2),
    "idle writes": ("at most", 0),
    "idle requests per second": ("at most", 0.5),
    "MB at 0": ("at most", 120),
    "KB per object": ("at most", 20),
    "writes after a restart": ("at most", 0),
}


async def at_zero(plane: ControlPlane, folder: Path, count: int, rounds: int) -> Json:
    """N at zero replicas, in rounds that alternate with the null writer's, so that a busy machine slows both."""
    cluster = Cluster(connection.from_kubeconfig(plane.kubeconfig), connections=writers.AT_ONCE)
    for namespace in (OURS, NULL):
        plane.kubectl("create", "namespace", namespace)
    part = count // rounds
    ours, floor = load.Span(), load.Span()
    with OperatorProcess(plane.kubeconfig, folder, OURS) as operator:
        await operator.working()
        empty = operator.memory()
        for begin in range(0, count, part):
            numbers = range(begin, begin + part)
            with ours:
                await load.until_ready(cluster, OURS, numbers, writers.deployment)
            await operator.settled()
            with floor:
                floor.writes += await writers.null_writer(cluster, NULL, numbers, CONFIG)
        ours.writes = operator.writes() + count  # the users' own
        full, quiet = operator.memory(), operator.calls()
        await asyncio.sleep(QUIET_SECONDS)
        idle = operator.calls() - quiet
        result = {
            "ratio of write rates": round(ours.rate / floor.rate, 2),
            "writes per object beyond its children": round(ours.writes / count - load.CHILDREN - 1, 2),
            "idle writes": load.writes(idle),
            "idle requests per second": round(sum(idle.values()) / QUIET_SECONDS, 2),
            "MB at 0": round(empty / 2**20, 1),
            "KB per object": round((full - empty) / 1024 / count, 1),
            "seconds from the first apply to the last Ready": round(ours.seconds, 2),
            "writes per second": round(ours.rate),
            "null writer's writes per second": round(floor.rate),
            "CPU ms per object": round(operator.cpu() * 1000 / count, 1),
        }
    with OperatorProcess(plane.kubeconfig, folder, OURS) as again:
        await again.working()
        await again.looked_at(count)
        result["writes after a restart"] = again.writes()
    await cluster.close()
    return result


async def on_nodes(plane: ControlPlane, folder: Path, count: int) -> Json:
    """N with one replica each, on fake nodes."""
    cluster = Cluster(connection.from_kubeconfig(plane.kubeconfig), connections=writers.AT_ONCE)
    plane.kubectl("create", "namespace", OURS)
    with nodes.kwok(plane, folder), OperatorProcess(plane.kubeconfig, folder, OURS) as operator:
        await operator.working()
        span = load.Span()
        with span:
            await load.until_ready(cluster, OURS, range(count), load.serving)
        await operator.settled()
        span.writes = operator.writes()
        quiet = operator.calls()
        await asyncio.sleep(QUIET_SECONDS)
        idle = operator.calls() - quiet
    await cluster.close()
    return {
        "objects": count,
        "seconds from the first apply to the last Ready": round(span.seconds, 2),
        "writes per object": round(span.writes / count, 2),
        "idle writes": load.writes(idle),
        "idle requests per second": round(sum(idle.values()) / QUIET_SECONDS, 2),
    }


def table(result: Json) -> str:
    """The figures with their targets."""
    lines = []
    for name, value in result.items():
        word, target = TARGETS.get(name, ("", ""))
        met = (
            "" if not word else "  met" if (value >= target if word == "at least" else value <= target) else "  MISSED"
        )  # type: ignore[operator]
        lines.append(f"{name:50} {value!s:>10}  {word} {target}{met}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Both legs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=4, help="how often the two writers alternate")
    parser.add_argument("--only", choices=("zero", "nodes"), help="one of the two legs")
    given = parser.parse_args()
    result: dict[str, Json] = {}
    with tempfile.TemporaryDirectory() as folder:
        if given.only != "nodes":
            with ControlPlane(client_qps=2000) as plane:
                load.install(plane, ROOT / "crds")
                result["at zero replicas"] = asyncio.run(at_zero(plane, Path(folder), given.count, given.rounds))
        if given.only != "zero":
            with ControlPlane(client_qps=2000, controllers=True, scheduler=True) as plane:
                load.install(plane, ROOT / "crds")
                result["on KWOK's nodes"] = asyncio.run(on_nodes(plane, Path(folder), given.count // 10))
    print(json.dumps({"count": given.count, **result}, indent=2))
    for leg, figures in result.items():
        print(f"\n{leg}, N = {given.count}\n{table(figures)}")


if __name__ == "__main__":
    main()
