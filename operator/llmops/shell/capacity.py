"""What is free of an accelerator, asked only while somebody waits for it."""

from __future__ import annotations

from collections import Counter

from llmops.shell.cluster import Cluster
from llmops.shell.resources import NODE, POD


async def sentence(cluster: Cluster, resource: str, count: int) -> str:
    """How much of `resource` the nodes have and how much is free, for the reader of a pod that waits for `count`."""
    nodes, _ = await cluster.list(NODE)
    pods, _ = await cluster.list(POD, query={"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"})
    total = {
        node["metadata"]["name"]: int(node["status"].get("allocatable", {}).get(resource, 0))
        for node in nodes
        if not node["spec"].get("unschedulable")
    }
    used: Counter[str] = Counter()
    for pod in pods:
        if name := pod["spec"].get("nodeName"):
            for container in pod["spec"]["containers"]:
                used[name] += int((container.get("resources", {}).get("requests") or {}).get(resource, 0))
    free = {name: amount - used[name] for name, amount in total.items()}
    have = sum(total.values())
    if have == 0:
        return (
            f"{resource}={count} is asked for, and no node of this cluster has any. "
            "Add a node, or change spec.accelerator.profile."
        )
    return (
        f"{resource}={count} fits no node: {max(0, sum(free.values()))} of {have} free "
        f"(largest on one node: {max(0, *free.values())}). Lower spec.accelerator.count or replicas, or add a node."
    )
