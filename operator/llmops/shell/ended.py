"""Jobs that have ended, and their pods as they are now: verdicts on an end are final."""

from __future__ import annotations

from typing import Any

from llmops.judge import ownership
from llmops.shell.resources import POD
from llmops.shell.world import World

Json = dict[str, Any]


async def pods_of(job: Json, world: World) -> tuple[Json, ...]:
    """The pods of a Job, read live.

    A Job's end and the last words of its pods are told by two watches, and nothing says which comes first: a run judged
    by what the slower one has told so far was complete and had made nothing.
    """
    meta = job["metadata"]
    query = {"labelSelector": f"batch.kubernetes.io/job-name={meta['name']}"}
    items, _ = await world.cluster.list(POD, meta["namespace"], query=query)
    return tuple(ownership.of(({**item, "apiVersion": POD.api_version, "kind": POD.kind} for item in items), job))
