"""What is asked for, and how one sees that it is there."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.reconcile.writers import all_of, deployment
from hack.cluster.controlplane import ControlPlane
from llmops.shell.cluster import Cluster
from llmops.shell.resources import LLM_DEPLOYMENT

Json = dict[str, Any]
CHILDREN = 4  # Deployment, Service, NetworkPolicy, PodDisruptionBudget
DEADLINE_SECONDS = 1800


@dataclass
class Span:
    """Time spent inside `with`, added up, and the writes of that time."""

    seconds: float = 0.0
    writes: int = 0
    _begun: float = 0.0

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._begun

    @property
    def rate(self) -> float:
        """Writes per second."""
        return self.writes / self.seconds


def install(plane: ControlPlane, crds: Path) -> None:
    """Our kinds."""
    plane.kubectl("apply", "--server-side", "-f", str(crds))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")


def serving(namespace: str, number: int) -> Json:
    """The same with one pod."""
    return deployment(namespace, number, replicas=1)


async def until_ready(cluster: Cluster, namespace: str, numbers: range, build: Callable[[str, int], Json]) -> None:
    """Apply them and return when the last one is Ready; seen by a watch, which costs the server little."""
    _, version = await cluster.list(LLM_DEPLOYMENT, namespace)
    missing = {f"m-{number}" for number in numbers}

    async def see(version: str) -> None:
        while True:  # the server ends every watch after a while
            async for change in cluster.watch(LLM_DEPLOYMENT, namespace, version):
                meta = change.object["metadata"]
                version = meta["resourceVersion"]
                conditions = change.object.get("status", {}).get("conditions", [])
                if any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions):
                    missing.discard(meta["name"])
                if not missing:
                    return

    async def one(number: int) -> None:
        await cluster.apply(build(namespace, number), manager="bench")

    seeing = asyncio.create_task(see(version))
    await all_of(one, numbers)
    await asyncio.wait_for(seeing, DEADLINE_SECONDS)


def writes(calls: Counter[str]) -> int:
    """How many of the requests were writes."""
    return sum(calls[verb] for verb in ("PATCH", "POST", "PUT", "DELETE"))
