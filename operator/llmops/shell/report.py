"""Tell the user: one status write when a fact changed, and one Event for each condition whose reason changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from llmops import names
from llmops.api.conditions import ConditionType, Reason
from llmops.api.meta import Condition
from llmops.judge.redaction import redacted
from llmops.shell.cluster import Cluster, Conflicting, Refused
from llmops.shell.resources import BY_KIND

Json = dict[str, Any]

REPORTER = "llmops.dev/operator"
NOTE_LIMIT = 1024  # characters; the API's limit for an Event's note


async def apply_status(cluster: Cluster, live: Json, status: Json) -> bool:
    """Write the whole status if it differs from what stands; returns whether it was written.

    The uid goes along, so that a status judged for an object that was deleted meanwhile cannot land on its successor.
    """
    if live.get("status") == status:
        return False
    meta = live["metadata"]
    manifest = {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
        "status": status,
    }
    await cluster.apply(manifest, manager=names.STATUS_MANAGER, subresource="status")
    return True


async def events(
    cluster: Cluster, live: Json, before: Sequence[Condition], after: Iterable[Condition], now: datetime
) -> None:
    """An Event for each condition whose reason is new.

    Its name follows from what it says and the minute it is said in: a retry after a crash finds it there already, and
    a reason that comes and goes is told once a minute.
    """
    old = {condition.type: condition.reason for condition in before}
    told: set[str] = set()
    for condition in after:
        if old.get(condition.type) == condition.reason or condition.reason in told or _dull(condition):
            continue
        told.add(condition.reason)
        try:
            await cluster.create(_event(live, condition, now), manager=names.STATUS_MANAGER)
        except Conflicting:
            continue
        except Refused:
            return  # Events are a courtesy; a namespace that is going away takes none


# States on the way to where the user wants to be: worth an Event, not a warning.
_CALM = {
    Reason.RESOLVING,
    Reason.DOWNLOADING,
    Reason.VERIFYING,
    Reason.STARTING,
    Reason.LOADING_WEIGHTS,
    Reason.ROLLING_OUT,
    Reason.SCALED_TO_ZERO,
    Reason.VALIDATING,
    Reason.TRAINING,
    Reason.RESUMING,
    Reason.SUSPENDED,
}


# Conditions that are told when they come true: what a user waits for, and what went wrong for good.
_TOLD = {ConditionType.READY, ConditionType.COMPLETE, ConditionType.FAILED}


def _dull(condition: Condition) -> bool:
    """Whether nobody needs an Event: what is as it should be, or only is how it was asked for."""
    return condition.reason == Reason.FIXED_SIZE or (condition.status == "True" and condition.type not in _TOLD)


def _event(live: Json, condition: Condition, now: datetime) -> Json:
    meta = live["metadata"]
    minute = int(now.timestamp() // 60)
    identity = names.digest([meta["uid"], condition.type, condition.reason, minute], length=16)
    return {
        "apiVersion": BY_KIND["Event"].api_version,
        "kind": "Event",
        "metadata": {"name": names.bounded(meta["name"], identity, limit=253), "namespace": meta["namespace"]},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": REPORTER,
        "reportingInstance": names.CHILD_MANAGER,
        "action": condition.type,
        "reason": condition.reason,
        "type": "Warning" if condition.status == "False" and condition.reason not in _CALM else "Normal",
        "regarding": {
            "apiVersion": live["apiVersion"],
            "kind": live["kind"],
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
        "note": redacted(condition.message)[:NOTE_LIMIT] or condition.reason,
    }
