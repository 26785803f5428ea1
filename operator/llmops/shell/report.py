"""Tell the user: one status write when a fact changed, and one Event for each condition whose reason changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog

from llmops import names
from llmops.api.conditions import ConditionType, Reason
from llmops.api.llm_status import LastScale, LLMDeploymentStatus
from llmops.api.meta import Condition
from llmops.judge import fields, scaling
from llmops.judge.redaction import redacted
from llmops.judge.verdict import shortened
from llmops.shell.cluster import Cluster, Conflicting, Refused, Unavailable
from llmops.shell.resources import BY_KIND

Json = dict[str, Any]
log = structlog.get_logger()

REPORTER = "llmops.dev/operator"
NOTE_LIMIT = 1024  # characters; the API's limit for an Event's note
TRIES = 2


async def apply_status(cluster: Cluster, live: Json, status: Json) -> bool:
    """Write the whole status if what stands of it as ours differs; returns whether it was written.

    What somebody else says in it stays his: it is taken neither away nor for a reason to write.
    A status judged for an object that was deleted meanwhile must not land on its successor. For the status of a
    custom resource the API server ignores a uid that is not the object's; a version that is not, it refuses.
    What is empty is left out: server-side apply turns an object that loses its last field into null, which the
    schema refuses.
    """
    status = filled(status)
    if live.get("status") == status or fields.stands(live, "status", status, names.STATUS_MANAGER):
        return False
    try:
        await _apply(cluster, live, status)
    except Conflicting:
        meta = live["metadata"]
        fresh = await cluster.get(BY_KIND[live["kind"]], meta["namespace"], meta["name"])
        if fresh is None or fresh["metadata"]["uid"] != meta["uid"]:
            return False
        # Changed under our hands: the change wakes us, and until then what was seen is worth telling.
        await _apply(cluster, fresh, status)
    return True


async def _apply(cluster: Cluster, live: Json, status: Json) -> None:
    named = {key: live["metadata"][key] for key in ("name", "namespace", "resourceVersion")}
    manifest = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": named, "status": status}
    await cluster.apply(manifest, manager=names.STATUS_MANAGER, subresource="status")


def filled(status: Json) -> Json:
    """The status without empty objects and lists, at any depth."""
    kept = {key: filled(value) if isinstance(value, dict) else value for key, value in status.items()}
    return {key: value for key, value in kept.items() if value not in ({}, [])}


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
        bad = condition.status == ("True" if condition.type == ConditionType.DRIFTED else "False")
        warning = bad and condition.reason not in _CALM
        identity = (condition.type, condition.reason, int(now.timestamp() // 60))
        event = _event(
            live,
            action=condition.type,
            reason=condition.reason,
            note=condition.message,
            at=now,
            identity=identity,
            warning=warning,
        )
        await _tell(cluster, event)


async def scaled(cluster: Cluster, live: Json, change: scaling.Change) -> None:
    """An Event of its own for each change of size: `kubectl describe` lists the last ones with their reasons."""
    identity = ("Scale", change.before, change.after, change.at.isoformat())
    event = _event(live, action="Scale", reason=change.reason, note=str(change), at=change.at, identity=identity)
    await _tell(cluster, event)


async def did(cluster: Cluster, live: Json, *, action: str, reason: str, note: str, now: datetime) -> None:
    """An Event about something that was done, which no condition says; once a minute at most."""
    identity = (action, reason, int(now.timestamp() // 60))
    await _tell(cluster, _event(live, action=action, reason=reason, note=note, at=now, identity=identity))


async def _tell(cluster: Cluster, event: Json) -> None:
    """Events are a courtesy: told already, or refused by a namespace on its way out, is no error.

    What they tell of stands in the status already, so the next look would not tell it again. One whose write got no
    answer is therefore written again here, by its name once only; and one that cannot be written costs no other.
    """
    problem = ""
    for _ in range(TRIES):
        try:
            with suppress(Conflicting, Refused):
                await cluster.create(event, manager=names.STATUS_MANAGER)
        except Unavailable as error:
            problem = str(error)
        else:
            return
    log.warning("an Event was not told", name=event["metadata"]["name"], reason=event["reason"], error=problem)


def last_scale(change: scaling.Change | None) -> LastScale | None:
    """The last change of size as status tells it."""
    if change is None:
        return None
    return LastScale(
        time=change.at.replace(microsecond=0),
        from_replicas=change.before,
        to_replicas=change.after,
        reason=change.reason,
        message=shortened(change.message, 512),
    )


def last_change(status: LLMDeploymentStatus) -> scaling.Change | None:
    """The last change of size that the status tells of: what a process that has just started knows of the past."""
    told = status.last_scale
    if told is None or told.reason not in set(scaling.Reason):
        return None
    return scaling.Change(told.time, told.from_replicas, told.to_replicas, scaling.Reason(told.reason), told.message)


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
    Reason.ACKNOWLEDGED,
    Reason.ADAPTER_PENDING,
    Reason.ADAPTER_LOADING,
    Reason.BACKING_UP,
    Reason.NO_POINT_YET,
}


# Conditions that are told when they come true: what a user waits for, and what went wrong for good.
_TOLD = {ConditionType.READY, ConditionType.COMPLETE, ConditionType.FAILED}


# Of drift only this: Unknown comes and goes with every quiet hour.
_ALARMING = {Reason.DRIFTING, Reason.ACKNOWLEDGED, Reason.RULES_NOT_LOADED}


def _dull(condition: Condition) -> bool:
    """Whether nobody needs an Event: what is as it should be, or only is how it was asked for."""
    if condition.type == ConditionType.DRIFTED:
        return condition.reason not in _ALARMING
    return condition.reason == Reason.FIXED_SIZE or (condition.status == "True" and condition.type not in _TOLD)


def _event(
    live: Json,
    *,
    action: str,
    reason: str,
    note: str,
    at: datetime,
    identity: tuple[str | int, ...],
    warning: bool = False,
) -> Json:
    """`identity` is what tells this Event from another of the object: the same one is created once."""
    meta = live["metadata"]
    digest = names.digest([meta["uid"], *identity], length=16)
    return {
        "apiVersion": BY_KIND["Event"].api_version,
        "kind": "Event",
        "metadata": {"name": names.bounded(meta["name"], digest, limit=253), "namespace": meta["namespace"]},
        "eventTime": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": REPORTER,
        "reportingInstance": names.CHILD_MANAGER,
        "action": action,
        "reason": reason,
        "type": "Warning" if warning else "Normal",
        "regarding": {
            "apiVersion": live["apiVersion"],
            "kind": live["kind"],
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
        "note": redacted(note)[:NOTE_LIMIT] or reason,
    }
