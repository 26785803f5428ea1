"""How an LLMDeployment's restore points stand, and what became of one of them: from Jobs, pods and what they said."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from llmops import names
from llmops.api.backup import BackupSpec
from llmops.api.backup_status import BackupStatus, ModelBackupStatus, RunStatus
from llmops.api.conditions import ConditionType, Reason
from llmops.api.model_backup import ModelBackup
from llmops.judge import outcomes, ownership, pods, schedule
from llmops.judge.redaction import redacted
from llmops.judge.verdict import MESSAGE_LIMIT, Verdict, abnormal, conditions, in_order, shortened
from llmops.judge.weights import Progress, in_steps, size

Json = dict[str, Any]
Kind = Literal["Backup", "Verify", "Drill", "Collect"]

TOO_OLD = 1.5  # times the longest gap of the schedule
_REASONS = {reason.value: reason for reason in Reason}
_NO_POINT = (Reason.NOT_BACKED_UP, Reason.BACKUP_FAILED)  # why there can never be a Job
_ORDER = (
    ConditionType.COMPLETE,
    ConditionType.ACCEPTED,
    ConditionType.RUNNING,
    ConditionType.FAILED,
    ConditionType.RECONCILING,
    ConditionType.STALLED,
)


@dataclass(frozen=True)
class Run:
    """One Job that looks after restore points, with its pods."""

    kind: Kind
    job: Json
    pods: tuple[Json, ...]

    @property
    def outcome(self) -> Json:
        """What its pod that ended last said; empty while none has."""
        return outcomes.newest(self.pods) or {}

    def ended(self, condition: str) -> datetime | None:
        """When the Job became `Complete` or `Failed`."""
        for entry in self.job.get("status", {}).get("conditions") or []:
            if entry["type"] == condition and entry["status"] == "True":
                return datetime.fromisoformat(entry["lastTransitionTime"])
        return None

    @property
    def failure(self) -> Verdict:
        """Why it failed, in the words of its last pod."""
        if not self.outcome:
            said = next((problem.message for pod in self.pods if (problem := pods.of(pod))), "It left no message.")
            return Verdict("False", Reason.BACKUP_FAILED, shortened(f"The {self.kind} Job failed. {said}", 512))
        reason = _REASONS.get(str(self.outcome["outcome"]), Reason.BACKUP_FAILED)
        return Verdict("False", reason, shortened(redacted(str(self.outcome.get("message", ""))), 512))


def runs(children: Iterable[Json]) -> list[Run]:
    """The Jobs among the children that look after restore points, oldest first."""
    children = list(children)
    kinds = {kind.lower(): kind for kind in get_args(Kind)}
    found = []
    for job in children:
        labels = job["metadata"].get("labels") or {}
        kind = kinds.get(labels.get(names.LABEL_COMPONENT, ""))
        if job["kind"] == "Job" and names.LABEL_BACKUP in labels and kind:
            name = job["metadata"]["name"]
            found.append(Run(kind, job, tuple(pod for pod in children if _job_of(pod) == name)))
    return sorted(found, key=lambda run: str(run.job["metadata"].get("creationTimestamp", "")))


def own(seen: Iterable[Run], jobs: Container[str], live: Json) -> Run | None:
    """The run that makes a ModelBackup's point: one of these Jobs, and not what a deleted ModelBackup of its name left.

    Of that one's Job the object that was created anew would be complete without a point of its own.
    """
    return next(
        (run for run in seen if run.job["metadata"]["name"] in jobs and not ownership.of_predecessor(run.job, live)),
        None,
    )


def running(seen: Iterable[Run], kind: Kind = "Backup") -> Run | None:
    """The newest Job of a kind that has not ended."""
    open_ = [run for run in seen if run.kind == kind and not run.ended("Complete") and not run.ended("Failed")]
    return open_[-1] if open_ else None


def status(before: BackupStatus | None, seen: Sequence[Run], points_name: str) -> BackupStatus:
    """What holds now: what was known, and what the Jobs that are there have added to it.

    Jobs and pods go after a while; what they said stays here.
    """
    before = before or BackupStatus()
    known = {run.kind: run for run in before.runs}
    for run in seen:
        known[run.kind] = _updated(known.get(run.kind) or RunStatus(kind=run.kind), run)
    facts: Json = {}
    for run in seen:
        point = str(run.outcome.get("ref", ""))
        if run.kind == "Backup" and run.ended("Complete") and point > str(facts.get("point") or before.point or ""):
            facts |= {"point": point, "bytes": run.outcome["bytes"], "stored_bytes": run.outcome["stored_bytes"]}
        if run.kind == "Verify" and (proven := _proven(run, points_name)):
            facts["verified_point"] = max(str(facts.get("verified_point") or before.verified_point or ""), *proven)
    ordered = [known[kind] for kind in get_args(Kind) if kind in known]
    return before.model_copy(update={**facts, "runs": ordered})


def verdict(
    spec: BackupSpec, held: BackupStatus, seen: Sequence[Run], progress: Progress | None, now: datetime
) -> Verdict:
    """`BackedUp`: whether what there is would do if everything else were lost now."""
    now_running = running(seen)
    if held.point is None:
        return _without(spec, held, now_running, progress, now)
    verify = held.run("Verify")
    if verify and verify.reason == Reason.CHECKSUM_MISMATCH and failed_last(verify):
        return Verdict("False", Reason.CHECKSUM_MISMATCH, f"{verify.message} See the log of the Verify Job.")
    facts = f"{held.point}, {size(held.bytes)} in {size(held.stored_bytes)}"
    if spec.suspend:
        return Verdict("False", Reason.BACKUP_SUSPENDED, f"spec.backup.suspend is true; the newest point is {facts}.")
    backup = held.run("Backup")
    why = f" The last try failed: {backup.message}" if backup and failed_last(backup) else ""
    if (limit := too_old_at(spec, held, now)) is not None and now >= limit:
        return Verdict("False", Reason.BACKUP_TOO_OLD, shortened(f"The newest point is {facts}.{why}", MESSAGE_LIMIT))
    proof = "verified" if held.verified_point == held.point else _not_verified(spec, held, now)
    return Verdict("True", Reason.BACKED_UP, shortened(f"{facts}; {proof}.{why}", MESSAGE_LIMIT))


def too_old_at(spec: BackupSpec, held: BackupStatus, now: datetime) -> datetime | None:
    """When the newest point becomes too old; `None` without a schedule or a point."""
    gap = schedule.longest_gap(spec.schedule, spec.time_zone, now) if spec.schedule else None
    return taken(held.point) + TOO_OLD * gap if gap and held.point else None


def taken(point: str) -> datetime:
    """The time in a point's name, `NAME@TIME`."""
    return datetime.fromisoformat(point.rpartition("@")[2])


def _without(
    spec: BackupSpec, held: BackupStatus, now_running: Run | None, progress: Progress | None, now: datetime
) -> Verdict:
    if now_running:
        return _under_way(now_running, progress)
    backup = held.run("Backup")
    if backup and failed_last(backup):
        reason = _REASONS.get(backup.reason or "", Reason.BACKUP_FAILED)
        return Verdict("False", reason, backup.message or "The backup failed.")
    if spec.suspend:
        return Verdict("False", Reason.BACKUP_SUSPENDED, "spec.backup.suspend is true, and there is no point.")
    first = schedule.following(spec.schedule, spec.time_zone, now) if spec.schedule else None
    if first is None:
        return Verdict("False", Reason.NO_POINT_YET, "There is no point. Create a ModelBackup, or set a schedule.")
    return Verdict("False", Reason.NO_POINT_YET, f"The first point is due at {_utc(first)}.")


def _under_way(run: Run, progress: Progress | None) -> Verdict:
    if (problem := pods.trouble([pod for pod in run.pods if _pending(pod)])) and problem.stuck:
        return Verdict("False", problem.reason, problem.message)
    stepped = in_steps(progress)
    if stepped and stepped.total:
        percent = stepped.done * 100 // stepped.total
        done = f"{size(stepped.done)} of {size(stepped.total)} read and stored ({percent} %)."
        return Verdict("False", Reason.BACKING_UP, done)
    if run.outcome and run.outcome["outcome"] != "Complete":
        return Verdict("False", run.failure.reason, f"{run.failure.message} It is tried again.")
    return Verdict("False", Reason.BACKING_UP, "The restore point is being written.")


def _not_verified(spec: BackupSpec, held: BackupStatus, now: datetime) -> str:
    following = schedule.following(spec.verify.schedule, spec.time_zone, now)
    then = f" before {_utc(following)}" if following else ""
    return f"not verified{then}" + (f"; {held.verified_point} is" if held.verified_point else "")


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _updated(known: RunStatus, run: Run) -> RunStatus:
    done, failed = run.ended("Complete"), run.ended("Failed")
    if done and (known.last_success_time is None or done > known.last_success_time):
        began = datetime.fromisoformat(run.job["status"].get("startTime") or run.job["metadata"]["creationTimestamp"])
        seconds = int(run.outcome.get("seconds", (done - began).total_seconds()))
        message = shortened(redacted(str(run.outcome.get("message", ""))), 512) or None
        facts = {"last_success_time": done, "seconds": seconds, "message": message, "reason": None}
        known = known.model_copy(update=facts if _newest(done, known) else {"last_success_time": done})
    if failed and (known.last_failure_time is None or failed > known.last_failure_time):
        facts = {"last_failure_time": failed, "reason": run.failure.reason.value, "message": run.failure.message}
        known = known.model_copy(update=facts if _newest(failed, known) else {"last_failure_time": failed})
    return known


def _newest(moment: datetime, known: RunStatus) -> bool:
    return all(moment >= other for other in (known.last_success_time, known.last_failure_time) if other)


def failed_last(run: RunStatus) -> bool:
    """Whether the newest run of the kind is a failure."""
    return run.last_failure_time is not None and (
        run.last_success_time is None or run.last_failure_time > run.last_success_time
    )


def _proven(run: Run, points_name: str) -> list[str]:
    return [ref for ref in run.outcome.get("verified", ()) if str(ref).startswith(f"{points_name}@")]


def _pending(pod: Json) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Pending")


def _job_of(pod: Json) -> str | None:
    labels = pod["metadata"].get("labels") or {}
    return labels.get("batch.kubernetes.io/job-name") if pod["kind"] == "Pod" else None


# -- one ModelBackup


def over(status: ModelBackupStatus) -> bool:
    """Whether the point is there, or will not be."""
    ends = (ConditionType.COMPLETE, ConditionType.FAILED)
    return any(entry.type in ends and entry.status == "True" for entry in status.conditions)


def complete(status: ModelBackupStatus) -> bool:
    """Whether the point is there."""
    return any(entry.type == ConditionType.COMPLETE and entry.status == "True" for entry in status.conditions)


def point_status(
    backup: ModelBackup, run: Run | None, progress: Progress | None, waiting: Verdict | None, now: datetime
) -> ModelBackupStatus:
    """The whole status of a point that is not over yet.

    Args:
        backup: The object, with the status it had.
        run: The Job that makes the point; `None` while there is none.
        progress: How far its pod is.
        waiting: Why there is no Job yet. What the API server refuses today, a quota that is full, it may take tomorrow.
        now: For times of transitions.
    """
    before, facts = backup.status, {}
    failed = False
    if run and (done := run.ended("Complete")):
        state = Verdict("True", Reason.COMPLETED, shortened(redacted(str(run.outcome.get("message", ""))), 512))
        facts = _facts(run.outcome) | {"completion_time": done}
    elif run and run.ended("Failed"):
        state, failed = run.failure, True
    elif run:
        state = _under_way(run, progress)
    else:
        state = waiting or Verdict("Unknown", Reason.STARTING, "The Job is being created.")
        failed = state.reason in _NO_POINT and state.status == "False"
    idle = state.status == "True" or failed or (run is None and state.status == "False")
    doing = Verdict("False" if idle else "True", state.reason, state.message)
    verdicts = {
        ConditionType.COMPLETE: Verdict("True" if state.status == "True" else "False", state.reason, state.message),
        ConditionType.ACCEPTED: Verdict("True", Reason.ACCEPTED, "The spec is valid and acted on."),
        ConditionType.RUNNING: doing,
        ConditionType.FAILED: Verdict("True" if failed else "False", state.reason, state.message),
    }
    if failed:
        verdicts[ConditionType.STALLED] = Verdict("True", state.reason, state.message)
    elif state.status != "True":
        verdicts |= abnormal(state, settled=False)
    stamped = conditions(verdicts, before.conditions, order=_ORDER, generation=backup.metadata.generation, now=now)
    facts["observed_generation"] = backup.metadata.generation
    return before.model_copy(update={**facts, "conditions": in_order(stamped, _ORDER)})


def _facts(outcome: Json) -> Json:
    """What the Job said of the point; nothing, when its pod is gone."""
    return {
        "point": outcome.get("ref"),
        "bytes": outcome.get("bytes"),
        "stored_bytes": outcome.get("stored_bytes"),
        "new_bytes": outcome.get("new_bytes"),
        "digest": outcome.get("digest"),
    }


def verified_at(status: ModelBackupStatus, seen: Iterable[Run]) -> datetime | None:
    """When the point was proven first, or `None` when a later verification found it damaged."""
    at = status.verified_at
    for run in seen:
        ended = run.ended("Complete") or run.ended("Failed")
        if run.kind != "Verify" or ended is None or status.point is None:
            continue
        if status.point in run.outcome.get("verified", ()):
            at = at or ended
        if status.point in run.outcome.get("bad", ()):
            at = None
    return at


def next_look(spec: BackupSpec, held: BackupStatus, seen: Sequence[Run], now: datetime) -> timedelta | None:
    """When the verdict may be another one without anything telling us."""
    if running(seen):
        return timedelta(seconds=5)
    limit = too_old_at(spec, held, now)
    return limit - now if limit and limit > now else None
