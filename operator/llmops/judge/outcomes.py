"""What the pods of a Job said when they ended: the termination messages that our jobs leave as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


def newest(job_pods: Sequence[Json]) -> Json | None:
    """The outcome of the container that ended last; `None` while none has said anything."""
    said: list[tuple[str, int, Json]] = []
    for pod in job_pods:
        status = pod.get("status", {})
        for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
            ended = container.get("state", {}).get("terminated")
            if ended and (outcome := parsed(ended.get("message") or "")):
                said.append((ended.get("finishedAt") or "", len(said), outcome))
    return max(said, key=lambda entry: entry[:2])[2] if said else None


def parsed(message: str) -> Json | None:
    """An outcome out of a termination message; `None` for anything else, such as the last lines of a log."""
    try:
        value = json.loads(message)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("outcome"), str) else None


def latest(log: str, event: str) -> Json | None:
    """What the JSON lines of a log tell of `event`, later ones over earlier: a line has only what it is about."""
    known: Json = {}
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and entry.get("event") == event:
            known |= entry
    return known or None
