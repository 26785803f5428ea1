"""Accelerators that are only counted: enough for the scheduler to place, and refuse to place, pods."""

import json
from collections.abc import Callable


def advertise_gpus(kubectl: Callable[..., str], node: str, count: int, *, resource: str = "nvidia.com/gpu") -> None:
    """Make a node say that it has so many of an extended resource, at once; a restart of its kubelet forgets it.

    Args:
        kubectl: Runs kubectl with the given arguments, as ``controlplane.kubectl`` with its kubeconfig bound.
        node: The node's name.
        count: How many; zero takes them away.
        resource: The extended resource's name.
    """
    key = resource.replace("~", "~0").replace("/", "~1")
    # The kubelet copies capacity to allocatable only with its next report, up to ten seconds later.
    patch = [
        {"op": "add", "path": f"/status/{field}/{key}", "value": str(count)} for field in ("capacity", "allocatable")
    ]
    kubectl("patch", "node", node, "--subresource=status", "--type=json", "--patch", json.dumps(patch))
