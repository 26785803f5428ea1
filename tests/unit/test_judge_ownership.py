"""Children of an object that was deleted say nothing about the next one of its name."""

from __future__ import annotations

from typing import Any

from llmops.judge import ownership

OWNER = {"kind": "FineTuneJob", "metadata": {"name": "m", "uid": "new", "creationTimestamp": "2026-11-21T10:00:30Z"}}


def child(uid: str, *owners: tuple[str, str], kind: str = "Job", born: str = "2026-11-21T10:00:30Z") -> dict[str, Any]:
    references = [{"kind": kind, "name": "m", "uid": owner} for kind, owner in owners]
    return {"kind": kind, "metadata": {"uid": uid, "creationTimestamp": born, "ownerReferences": references}}


MINE = child("mine", ("FineTuneJob", "new"))
OLD = child("old-job", ("FineTuneJob", "old"))
MY_POD = child("my-pod", ("Job", "mine"), kind="Pod")
OLD_POD = child("old-pod", ("Job", "old-job"), kind="Pod")
OLDER_POD = child("older-pod", ("Job", "gone"), kind="Pod", born="2026-11-21T10:00:00Z")
SHARED = child("shared", ("FineTuneJob", "old"), ("FineTuneJob", "new"))
KEPT = child("kept", kind="PersistentVolumeClaim", born="2026-11-20T10:00:00Z")


def test_only_what_a_predecessor_left_is_left_out() -> None:
    found = ownership.own([MINE, OLD, MY_POD, OLD_POD, OLDER_POD, SHARED, KEPT], OWNER)
    assert [each["metadata"]["uid"] for each in found] == ["mine", "my-pod", "shared", "kept"]


def test_the_pods_of_a_job_are_those_it_owns() -> None:
    assert ownership.of([MY_POD, OLD_POD], MINE) == [MY_POD]
    assert ownership.of([MY_POD, OLD_POD], None) == []
