"""Whether the files are there, read from the Job, its pods and what they said last."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmops.api.llm_deployment import ModelStatus
from llmops.judge import weights
from llmops.judge.weights import Progress

Json = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
UNKNOWN = ModelStatus()
KNOWN = ModelStatus(revision="abc", digest="sha256:1", bytes=2048)


def job(kind: str | None = None, at: datetime = NOW) -> Json:
    stamp = at.isoformat()
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": stamp}] if kind else []
    return {"metadata": {"uid": "1"}, "status": {"conditions": conditions, "completionTime": stamp}}


def said(**outcome: Any) -> Json:
    ended = {"exitCode": 0, "message": json.dumps(outcome), "finishedAt": "2026-01-01T00:00:00Z"}
    return {
        "metadata": {"name": "p"},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "fetch", "state": {"terminated": ended}}]},
    }


CASES: list[tuple[str, Json | None, list[Json], Progress | None, ModelStatus, tuple[str, str, str]]] = [
    ("nothing yet", None, [], None, UNKNOWN, ("False", "Downloading", "")),
    ("a quarter", job(), [], Progress(25, 100), UNKNOWN, ("False", "Downloading", "20 B of 100 B")),
    (
        "complete",
        job("Complete"),
        [said(outcome="Complete", revision="abc", digest="sha256:1", bytes=2048)],
        None,
        UNKNOWN,
        ("True", "Verified", "abc, 2.0 KiB"),
    ),
    ("complete, its pod long gone", job("Complete"), [], None, KNOWN, ("True", "Verified", "abc")),
    (
        "no such model",
        job("Failed"),
        [said(outcome="ModelNotFound", message="org/x does not exist")],
        None,
        UNKNOWN,
        ("False", "ModelNotFound", "org/x"),
    ),
    (
        "throttled, tried again",
        job(),
        [said(outcome="SourceThrottled", message="429")],
        None,
        UNKNOWN,
        ("False", "SourceThrottled", "tried again"),
    ),
    (
        "a word nobody knows",
        job("Failed"),
        [said(outcome="Gremlins", message="m")],
        None,
        UNKNOWN,
        ("False", "WeightsFailed", "m"),
    ),
    ("no word at all", job("Failed"), [], None, UNKNOWN, ("False", "WeightsFailed", "no message")),
    (
        "a secret in its words",
        job("Failed"),
        [said(outcome="ModelAuthFailed", message="token hf_abcdefghijklmnop refused")],
        None,
        UNKNOWN,
        ("False", "ModelAuthFailed", "***"),
    ),
]


@pytest.mark.parametrize(
    ("the_job", "pods", "progress", "known", "verdict"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_verdict(
    the_job: Json | None, pods: list[Json], progress: Progress | None, known: ModelStatus, verdict: tuple[str, str, str]
) -> None:
    found = weights.of(the_job, pods, progress, known).verdict
    assert (found.status, found.reason) == verdict[:2]
    assert verdict[2] in found.message
    assert "hf_abcdefghijklmnop" not in found.message


def claim(age: timedelta) -> Json:
    return {"metadata": {"creationTimestamp": (NOW - age).isoformat()}}


OUTDATED: list[tuple[str, Json | None, Json | None, bool]] = [
    ("no job", None, None, False),
    ("a volume older than its job", job("Complete", NOW - timedelta(hours=1)), claim(timedelta(hours=2)), False),
    ("a volume made anew after its job", job("Complete", NOW - timedelta(hours=1)), claim(timedelta(minutes=5)), True),
    ("failed a minute ago", job("Failed", NOW - timedelta(minutes=1)), None, False),
    ("failed an hour ago", job("Failed", NOW - timedelta(hours=1)), None, True),
    ("still running", job(), claim(timedelta(minutes=5)), False),
]


@pytest.mark.parametrize(
    ("the_job", "the_claim", "again"), [case[1:] for case in OUTDATED], ids=[case[0] for case in OUTDATED]
)
def test_when_a_job_must_run_again(the_job: Json | None, the_claim: Json | None, *, again: bool) -> None:
    assert weights.outdated(the_job, the_claim, NOW) is again


def test_progress_is_the_last_line_that_tells_it() -> None:
    lines = ['{"event":"progress","bytes":1,"total":9}', '{"event":"progress","bytes":5,"total":9}', "noise", "{"]
    assert weights.progress("\n".join(lines)) == Progress(5, 9)
    assert weights.progress("noise") is None
