"""How restore points stand, told from Jobs, pods and what they said."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmops import names
from llmops.api.backup import BackupSpec
from llmops.api.backup_status import BackupStatus, ModelBackupStatus
from llmops.api.model_backup import ModelBackup
from llmops.judge import backups
from llmops.judge.backups import Run
from llmops.judge.verdict import Verdict
from llmops.judge.weights import Progress

Json = dict[str, Any]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
POINT = "support@2026-11-20T03:00:00Z"
DONE = {
    "outcome": "Complete", "message": "3 files.", "ref": POINT, "bytes": 2**30, "stored_bytes": 2**29,
    "new_bytes": 7, "digest": "sha256:1f", "seconds": 61.4,
}  # fmt: skip


def at(hour: float) -> str:
    return (NOW.replace(hour=0) + timedelta(hours=hour)).isoformat().replace("+00:00", "Z")


def job(kind: str, name: str, *, ended: str = "", hour: float = 3) -> Json:
    labels = {names.LABEL_COMPONENT: kind, names.LABEL_BACKUP: "support"}
    entry = {"type": ended, "status": "True", "lastTransitionTime": at(hour + 0.5)}
    status = {"startTime": at(hour), "conditions": [entry] if ended else []}
    meta = {"name": name, "labels": labels, "creationTimestamp": at(hour)}
    return {"kind": "Job", "metadata": meta, "status": status}


def pod(name: str, outcome: Json | None = None, *, phase: str = "Running") -> Json:
    state = {"terminated": {"message": json.dumps(outcome), "finishedAt": at(4)}} if outcome else {"running": {}}
    labels = {"batch.kubernetes.io/job-name": name}
    return {
        "kind": "Pod",
        "metadata": {"name": f"{name}-x", "labels": labels, "creationTimestamp": at(3)},
        "spec": {"containers": []},
        "status": {"phase": phase, "containerStatuses": [{"name": "c", "state": state, "ready": False}]},
    }


def seen(*children: Json) -> list[Run]:
    return backups.runs(children)


def spec(**more: Any) -> BackupSpec:
    given = {"target": "s3://backups/llm", "secretRef": {"name": "s3"}, "schedule": "0 3 * * *", **more}
    return BackupSpec.model_validate(given, by_alias=True)


GOOD = (job("backup", "b1", ended="Complete"), pod("b1", DONE, phase="Succeeded"))
DENIED = {"outcome": "TargetAccessDenied", "message": "clock: 403"}
DAMAGE = {"outcome": "ChecksumMismatch", "message": "1 objects damaged", "bad": [POINT], "verified": []}
PROVEN = {"outcome": "Complete", "message": "1 points sound", "verified": [POINT, "other@2026-11-20T03:00:00Z"]}
FAILED = (job("backup", "b2", ended="Failed", hour=9), pod("b2", DENIED, phase="Failed"))
NOT_YET = "not verified before 2026-11-22 05:00 UTC"

CASES: list[tuple[str, Json, tuple[Json, ...], Progress | None, tuple[str, str, str]]] = [
    ("nothing is there yet", {}, (), None, ("False", "NoPointYet", "due at 2026-11-21 03:00 UTC")),
    ("nothing will be there by itself", {"schedule": None}, (), None, ("False", "NoPointYet", "Create a ModelBackup")),
    ("the first is made", {}, (job("backup", "b0"), pod("b0")), Progress(35, 100), ("False", "BackingUp", "(30 %)")),
    ("the first fails", {}, FAILED, None, ("False", "TargetAccessDenied", "clock: 403")),
    ("there is one", {}, GOOD, None, ("True", "BackedUp", f"{POINT}, 1.0 GiB in 512.0 MiB; {NOT_YET}")),
    (
        "there is one that is proven",
        {},
        (*GOOD, job("verify", "v1", ended="Complete", hour=5), pod("v1", PROVEN)),
        None,
        ("True", "BackedUp", "; verified."),
    ),
    ("there is one and the next failed", {}, (*GOOD, *FAILED), None, ("True", "BackedUp", "The last try failed")),
    (
        "there is one and it is damaged",
        {},
        (*GOOD, job("verify", "v1", ended="Failed", hour=5), pod("v1", DAMAGE)),
        None,
        ("False", "ChecksumMismatch", "1 objects damaged"),
    ),
    ("the last is too old", {"schedule": "0 */4 * * *"}, GOOD, None, ("False", "BackupTooOld", POINT)),
    ("weekends are no reason to be too old", {"schedule": "0 3 * * 1-5"}, GOOD, None, ("True", "BackedUp", POINT)),
    ("nothing is made for now", {"suspend": True}, GOOD, None, ("False", "BackupSuspended", POINT)),
]


@pytest.mark.parametrize(("more", "children", "progress", "wanted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_backed_up(
    more: Json, children: tuple[Json, ...], progress: Progress | None, wanted: tuple[str, str, str]
) -> None:
    found = seen(*children)
    held = backups.status(None, found, "support")
    judged = backups.verdict(spec(**more), held, found, progress, NOW)
    assert (judged.status, judged.reason) == wanted[:2]
    assert wanted[2] in judged.message


def test_what_was_known_outlives_its_jobs() -> None:
    before = backups.status(None, seen(*GOOD, *FAILED), "support")
    assert backups.status(before, [], "support") == before
    assert before.point == POINT
    backup = before.run("Backup")
    assert backup is not None
    assert (backup.reason, backup.seconds) == ("TargetAccessDenied", 61)
    assert backup.last_success_time == datetime.fromisoformat(at(3.5))
    assert backup.last_failure_time == datetime.fromisoformat(at(9.5))


def test_a_success_after_a_failure_takes_its_reason_away() -> None:
    before = backups.status(None, seen(*FAILED), "support")
    later = job("backup", "b3", ended="Complete", hour=10)
    run = backups.status(before, seen(later, pod("b3", DONE)), "support").run("Backup")
    assert run is not None
    assert (run.reason, run.message) == (None, "3 files.")


def test_points_of_others_are_not_ours() -> None:
    verify = (job("verify", "v1", ended="Complete"), pod("v1", {**PROVEN, "verified": ["other@2026-11-20T03:00:00Z"]}))
    assert backups.status(None, seen(*verify), "support") == BackupStatus(
        runs=backups.status(None, seen(*verify), "support").runs
    )


def backup(status: ModelBackupStatus | None = None) -> ModelBackup:
    manifest = {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "ModelBackup",
        "metadata": {"name": "b", "generation": 1, "creationTimestamp": at(3)},
        "spec": {"deployment": "support"},
    }
    made = ModelBackup.from_manifest(manifest)
    return made.model_copy(update={"status": status}) if status else made


def conditions(status: ModelBackupStatus) -> dict[str, tuple[str, str]]:
    return {entry.type: (entry.status, entry.reason) for entry in status.conditions}


def test_a_point_that_is_made() -> None:
    (run,) = seen(*GOOD)
    status = backups.point_status(backup(), run, None, None, NOW)
    assert backups.complete(status)
    assert (status.point, status.bytes, status.digest) == (POINT, 2**30, "sha256:1f")
    assert conditions(status) == {
        "Complete": ("True", "Completed"),
        "Accepted": ("True", "Accepted"),
        "Running": ("False", "Completed"),
        "Failed": ("False", "Completed"),
    }
    proof = seen(job("verify", "v1", ended="Complete", hour=5), pod("v1", PROVEN))
    assert backups.verified_at(status, proof) == datetime.fromisoformat(at(5.5))
    proven = status.model_copy(update={"verified_at": datetime.fromisoformat(at(5.5))})
    assert backups.verified_at(proven, []) == proven.verified_at
    assert backups.verified_at(proven, seen(job("verify", "v2", ended="Failed", hour=6), pod("v2", DAMAGE))) is None


def test_a_point_that_cannot_be_made() -> None:
    (run,) = seen(*FAILED)
    status = backups.point_status(backup(), run, None, None, NOW)
    assert backups.over(status)
    assert conditions(status)["Failed"] == ("True", "TargetAccessDenied")


@pytest.mark.parametrize(("status", "final"), [("False", True), ("Unknown", False)])
def test_a_point_that_waits(status: Any, *, final: bool) -> None:
    found = backups.point_status(backup(), None, None, Verdict(status, "NotBackedUp", "Why."), NOW)  # type: ignore[arg-type]
    assert backups.over(found) is final
    assert conditions(found)["Complete"] == ("False", "NotBackedUp")


@pytest.mark.parametrize(("owner", "found"), [("b", True), ("deleted", False), (None, True)])
def test_the_job_of_a_deleted_namesake_makes_no_point_of_ours(owner: str | None, *, found: bool) -> None:
    made = job("backup", "b-point", ended="Complete")
    if owner:  # a schedule's Job has another kind of owner, or none that is known
        made["metadata"]["ownerReferences"] = [{"kind": "ModelBackup", "name": "b", "uid": owner}]
    live = {"kind": "ModelBackup", "metadata": {"name": "b", "uid": "b"}}
    assert (backups.own(seen(made), {"b-point"}, live) is not None) is found
    assert backups.own(seen(made), {"another"}, live) is None
