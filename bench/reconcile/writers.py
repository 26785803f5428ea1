"""The same writes with no logic: the most that could be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from llmops import names
from llmops.api.llm_deployment import LLMDeployment
from llmops.config import Config
from llmops.desired import serving
from llmops.shell.cluster import Cluster

Json = dict[str, Any]
AT_ONCE = 32
MESSAGE = "spec.replicas is 0. Raise it, or set spec.autoscaling to wake on requests."
STATUS: Json = {
    "observedGeneration": 1,
    "replicas": 0,
    "readyReplicas": 0,
    "conditions": [
        {
            "type": kind,
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "reason": "ScaledToZero",
            "message": MESSAGE,
        }
        for kind in ("Ready", "Accepted", "WeightsReady", "Progressing", "ScalingActive")
    ],
}


def deployment(namespace: str, number: int, *, replicas: int = 0) -> Json:
    """One that needs no weights Job: what is measured is the operator and the API server."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "LLMDeployment",
        "metadata": {"name": f"m-{number}", "namespace": namespace},
        "spec": {"model": {"source": "oci://models/tiny:1"}, "replicas": replicas},
    }


async def all_of(work: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> None:
    """Do the work on every item, 32 at once."""
    queue = list(items)[::-1]

    async def worker() -> None:
        while queue:
            await work(queue.pop())

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def null_writer(cluster: Cluster, namespace: str, numbers: range, config: Json) -> int:
    """The object, its children, one status and one Event each, and nothing else; how many writes that were."""
    known = Config.model_validate(config)
    written = 0

    async def one(number: int) -> None:
        nonlocal written
        live = await cluster.apply(deployment(namespace, number), manager="bench")
        llm = LLMDeployment.from_manifest(live)
        for child in serving.objects(llm, known, replicas=0, weights_ready=True, surge=True):
            await cluster.apply(child, manager=names.CHILD_MANAGER)
            written += 1
        meta = {key: live["metadata"][key] for key in ("name", "namespace")}
        identity = {"apiVersion": names.API_VERSION, "kind": "LLMDeployment", "metadata": meta}
        await cluster.apply({**identity, "status": STATUS}, manager=names.STATUS_MANAGER, subresource="status")
        await cluster.create(event(live), manager=names.STATUS_MANAGER)
        written += 3

    await all_of(one, numbers)
    return written


def event(live: Json) -> Json:
    """One as the operator writes it."""
    meta = live["metadata"]
    regarding = {"apiVersion": names.API_VERSION, "kind": "LLMDeployment", "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}-null", "namespace": meta["namespace"]},
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "bench",
        "reportingInstance": "bench",
        "action": "Ready",
        "reason": "ScaledToZero",
        "type": "Normal",
        "regarding": {**regarding, "namespace": meta["namespace"]},
        "note": MESSAGE,
    }
