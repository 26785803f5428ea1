"""Pods as Pod Security's `restricted` profile wants them, and the parts that engines and jobs share."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

USER = 65532  # "nonroot" of the distroless images: an id that no image gives to anything else

# HOME and USER: libraries that look up the user's name or write caches must not need an entry in /etc/passwd.
BASE_ENV = {"HOME": "/tmp/home", "USER": "llmops", "LOGNAME": "llmops"}  # noqa: S108 - an emptyDir of the pod


def security() -> tuple[Json, Json]:
    """The pod's and the container's securityContext."""
    pod = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        # Without it, kubelet changes the owner of every file of a 100 GB volume at each start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return pod, container


def environment(values: dict[str, str]) -> list[Json]:
    """A container's env list in a stable order."""
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def scratch(size: str = "2Gi") -> tuple[Json, Json]:
    """The writable /tmp of a container with a read-only root: the volume and its mount."""
    return {"name": "tmp", "emptyDir": {"sizeLimit": size}}, {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108
