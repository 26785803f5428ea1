"""What a FineTuneJob has used of accelerators: the time of its training pods, also of those that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops.api.fine_tune_status import UsageStatus

Json = dict[str, Any]

SECONDS_PER_HOUR = 3600
# A status that moves with every second would wake its own reconcile; a hundred steps are enough to watch it grow.
STEPS = 100
COARSE_SECONDS = 600


def used(spec: FineTuneJobSpec, before: UsageStatus, pods: Sequence[Json], now: datetime) -> UsageStatus:
    """Accelerator seconds so far, exactly.

    A pod counts from the moment a node has taken it. One that is gone counts as it was last seen, so that an eviction
    gives nothing back.
    """
    seen = {pod["metadata"]["name"]: _seconds(pod, now) * spec.accelerator.count for pod in pods}
    earlier = before.accelerator_seconds - sum(before.pods.values())
    gone = sum(seconds for name, seconds in before.pods.items() if name not in seen)
    return UsageStatus(accelerator_seconds=earlier + gone + sum(seen.values()), pods=seen)


def shown(spec: FineTuneJobSpec, before: UsageStatus, exact: UsageStatus, *, running: bool) -> UsageStatus:
    """What the status says: the exact figure when pods came, went or ended, and in coarse steps in between."""
    step = max(10, int(seconds(spec) / STEPS)) if spec.budget else COARSE_SECONDS
    same = before.pods.keys() == exact.pods.keys()
    return before if running and same and exact.accelerator_seconds - before.accelerator_seconds < step else exact


def exhausted(spec: FineTuneJobSpec, usage: UsageStatus) -> str:
    """A sentence when the budget is used up; empty while it is not."""
    if spec.budget is None or usage.accelerator_seconds < seconds(spec):
        return ""
    hours = Decimal(usage.accelerator_seconds) / SECONDS_PER_HOUR
    return (
        f"{hours:.2f} accelerator hours are used and spec.budget.gpuHours is {spec.budget.gpu_hours}. The volume keeps "
        "the last checkpoint; create a job with a larger budget."
    )


def seconds(spec: FineTuneJobSpec) -> Decimal:
    """The budget in accelerator seconds; without one, endless."""
    return Decimal(spec.budget.gpu_hours) * SECONDS_PER_HOUR if spec.budget else Decimal("Infinity")


def _seconds(pod: Json, now: datetime) -> int:
    status = pod.get("status", {})
    if not (began := status.get("startTime")):
        return 0
    ends = [
        datetime.fromisoformat(ended["finishedAt"])
        for container in status.get("containerStatuses") or []
        if (ended := container.get("state", {}).get("terminated")) and ended.get("finishedAt")
    ]
    end = max(ends) if ends and status.get("phase") in ("Succeeded", "Failed") else now
    return max(0, int((end - datetime.fromisoformat(began)).total_seconds()))
