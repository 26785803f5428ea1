"""What a FineTuneJob is told, from what its Jobs and pods say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.fine_tune_status import FineTuneJobStatus
from llmops.judge import training
from llmops.judge.training import Bounds, Seen, Stage

Json = dict[str, Any]
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
VALID = {"outcome": "DatasetValid", "message": "300 rows."}
DONE = {
    "outcome": "Completed",
    "message": "The best checkpoint is step 15 of 20.",
    "uri": "artifact/1f0c",
    "digest": "sha256:1f0c",
    "step": 15,
    "last": 20,
    "total": 20,
    "metrics": {"evalLoss": "2.01"},
}


def job(status: FineTuneJobStatus | None = None, **spec: Any) -> FineTuneJob:
    manifest: Json = {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "tickets", "namespace": "a", "uid": "u", "generation": 1},
        "spec": {"baseModel": {"source": "hf://o/m"}, "dataset": {"source": "s3://bucket/t.jsonl"}, **spec},
    }
    if status:
        manifest["status"] = status.model_dump(by_alias=True, mode="json", exclude_none=True)
    return FineTuneJob.from_manifest(manifest)


def pod(phase: str, outcome: Json | None = None, **terminated: Any) -> Json:
    container: Json = {"name": "c", "state": {}}
    if outcome or terminated:
        message = json.dumps(outcome) if outcome else terminated.pop("message", "")
        ended = {"message": message, "finishedAt": "2026-11-21T12:00:00Z", "exitCode": 1, **terminated}
        container["state"] = {"terminated": ended}
    meta = {"name": "p", "creationTimestamp": "2026-11-21T11:00:00Z"}
    return {"kind": "Pod", "metadata": meta, "status": {"phase": phase, "containerStatuses": [container]}}


def ended(kind: str, reason: str = "") -> Json:
    return {"kind": "Job", "status": {"conditions": [{"type": kind, "status": "True", "reason": reason}]}}


CHECKED = Stage(ended("Complete"), (pod("Succeeded", VALID, exitCode=0),))
RUNNING = Stage({"kind": "Job"}, (pod("Running"),))
FULL = {
    **pod("Pending"),
    "status": {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: 1 Insufficient nvidia.com/gpu."}
        ],
    },
}
OOM = pod("Failed", reason="OOMKilled", exitCode=137)
CRASHED = pod("Failed", message="Traceback\nRuntimeError: boom", exitCode=1)

# name, what is seen, spec, then `DatasetValid`, `Running`, `Complete`, `Failed` as they should be, and words of Running
SIGHTS: list[tuple[str, Seen, Json, str, str]] = [
    ("just created", Seen(Stage(), Stage()), {}, "Unknown False False False", "Validating"),
    ("the data is read", Seen(RUNNING, Stage()), {}, "Unknown False False False", "Validating"),
    (
        "the data is bad",
        Seen(Stage(ended("Failed"), (pod("Failed", {"outcome": "DatasetInvalid", "message": "line 3"}),)), Stage()),
        {},
        "False False False True",
        "DatasetInvalid line 3",
    ),
    (
        "the base model does not exist",
        Seen(Stage(ended("Failed"), (pod("Failed", {"outcome": "ModelNotFound", "message": "no o/m"}),)), Stage()),
        {},
        "False False False True",
        "ModelNotFound no o/m",
    ),
    (
        "the check itself crashed",
        Seen(Stage(ended("Failed"), (CRASHED,)), Stage()),
        {},
        "False False False True",
        "CheckFailed RuntimeError: boom",
    ),
    ("the data is good", Seen(CHECKED, Stage()), {}, "True False False False", "Starting"),
    ("no accelerator is free", Seen(CHECKED, Stage(None, (FULL,))), {}, "True False False False", "WaitingForGPU"),
    ("it trains", Seen(CHECKED, RUNNING), {}, "True True False False", "Training"),
    (
        "between two pods",
        Seen(CHECKED, Stage({}, (pod("Failed", {"outcome": "Interrupted", "message": "At step 5."}),))),
        {},
        "True False False False",
        "Resuming At step 5.",
    ),
    (
        "the pod is done and the Job not yet",
        Seen(CHECKED, Stage({}, (pod("Succeeded", DONE, exitCode=0),))),
        {},
        "True False False False",
        "Training The artifact is written",
    ),
    ("suspended", Seen(CHECKED, Stage()), {"suspend": True}, "True False False False", "Suspended"),
    (
        "it is done",
        Seen(CHECKED, Stage(ended("Complete"), (pod("Succeeded", DONE, exitCode=0),))),
        {},
        "True False True False",
        "Completed step 15",
    ),
    (
        "it was too slow",
        Seen(CHECKED, Stage(ended("Failed", "DeadlineExceeded"))),
        {"deadlineSeconds": 9},
        "True False False True",
        "DeadlineExceeded",
    ),
    (
        "it learned nonsense",
        Seen(CHECKED, Stage(ended("Failed"), (pod("Failed", {"outcome": "Diverged", "message": "to nan"}),))),
        {},
        "True False False True",
        "Diverged to nan",
    ),
    ("the kernel killed it", Seen(CHECKED, Stage(ended("Failed"), (OOM,))), {}, "True False False True", "OutOfMemory"),
    (
        "it crashed without words of its own",
        Seen(CHECKED, Stage(ended("Failed"), (CRASHED,))),
        {},
        "True False False True",
        "TrainerFailed RuntimeError: boom",
    ),
]


@pytest.mark.parametrize(
    ("seen", "spec", "statuses", "words"), [case[1:] for case in SIGHTS], ids=[case[0] for case in SIGHTS]
)
def test_what_a_job_is_told(seen: Seen, spec: Json, statuses: str, words: str) -> None:
    judged = training.of(job(**spec), seen, claim="tickets-finetune", waiting="", now=NOW)
    found = {condition.type: condition for condition in judged.conditions}
    assert [found[kind].status for kind in ("DatasetValid", "Running", "Complete", "Failed")] == statuses.split()
    reason, _, message = words.partition(" ")
    assert found["Running"].reason == reason
    assert message in found["Running"].message


def test_the_artifact_is_told_where_it_lies() -> None:
    seen = Seen(CHECKED, Stage(ended("Complete"), (pod("Succeeded", DONE, exitCode=0),)))
    judged = training.of(job(), seen, claim="tickets-finetune", waiting="", now=NOW)
    assert judged.artifact.uri == "pvc://tickets-finetune/artifact/1f0c"
    assert judged.artifact.digest == "sha256:1f0c"
    assert (judged.progress.step, judged.progress.total_steps, judged.progress.best_step) == (20, 20, 15)
    assert judged.evaluation == {"evalLoss": "2.01"}
    assert judged.completion_time == NOW


def test_what_was_found_out_outlives_pods_and_jobs() -> None:
    valid = training.of(job(), Seen(CHECKED, Stage()), claim="c", waiting="", now=NOW)
    later = training.of(job(valid), Seen(Stage(), RUNNING), claim="c", waiting="", now=NOW)
    assert next(c for c in later.conditions if c.type == "DatasetValid").status == "True"
    done = Seen(CHECKED, Stage(ended("Complete"), (pod("Succeeded", DONE, exitCode=0),)))
    complete = training.of(job(later), done, claim="c", waiting="", now=NOW)
    assert training.of(job(complete), Seen(Stage(), Stage()), claim="c", waiting="", now=NOW) == complete


def line(step: int) -> Json:
    return {"step": step, "total": 1000, "epoch": 0.1, "loss": 2.0, "tokens_per_second": 50, "checkpoint": 0}


def test_progress_is_written_by_the_percent() -> None:
    first = training.of(job(), Seen(CHECKED, RUNNING, line(15)), claim="c", waiting="", now=NOW)
    assert (first.progress.step, first.progress.train_loss) == (15, "2")
    same = training.of(job(first), Seen(CHECKED, RUNNING, line(19)), claim="c", waiting="", now=NOW)
    assert same == first
    following = training.of(job(first), Seen(CHECKED, RUNNING, line(20)), claim="c", waiting="", now=NOW)
    assert following.progress.step == 20


WORSE = DONE | {"overfitting": 2}
WILD = {"outcome": "Diverged", "message": "The loss went from 2 to 9 at step 5.", "step": 5, "total": 10}
# name, what is seen, then `Overfitting` and `Diverged`
LOSSES: list[tuple[str, Seen, str]] = [
    ("nothing is learned yet", Seen(CHECKED, RUNNING), ""),
    ("all is well", Seen(CHECKED, RUNNING, line(15)), "False False"),
    ("held-out rows get worse", Seen(CHECKED, RUNNING, line(15) | {"overfitting": 3}), "True False"),
    ("the same at the end", Seen(CHECKED, Stage(ended("Complete"), (pod("Succeeded", WORSE),))), "True False"),
    ("the loss explodes", Seen(CHECKED, Stage(ended("Failed"), (pod("Failed", WILD),))), "False True"),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "expected"), [case[1:] for case in LOSSES], ids=[case[0] for case in LOSSES])
def test_what_the_losses_say_is_a_condition(seen: Seen, expected: str) -> None:
    status = training.of(job(), seen, claim="c", waiting="", now=NOW)
    assert expected.split() == [c.status for c in status.conditions if c.type in ("Overfitting", "Diverged")]
    later = training.of(job(status), Seen(CHECKED, Stage()), claim="c", waiting="", now=NOW)
    assert expected.split() == [c.status for c in later.conditions if c.type in ("Overfitting", "Diverged")]


BOUNDED: list[tuple[str, Seen, Bounds, str, str]] = [
    (
        "it does not fit",
        Seen(CHECKED, Stage()),
        Bounds(unfit="needs 90 GiB"),
        "False False False",
        "InsufficientMemory",
    ),
    ("its budget is used up", Seen(CHECKED, RUNNING), Bounds(spent="2.00 hours"), "True False True", "BudgetExceeded"),
    (
        "its queue has not admitted it",
        Seen(CHECKED, Stage({"kind": "Job", "spec": {"suspend": True}})),
        Bounds(),
        "True False False",
        "Queued",
    ),
]


@pytest.mark.parametrize(
    ("seen", "bounds", "expected", "reason"), [case[1:] for case in BOUNDED], ids=[case[0] for case in BOUNDED]
)
def test_what_a_run_may_take_bounds_it(seen: Seen, bounds: Bounds, expected: str, reason: str) -> None:
    """`Accepted`, `Running` and `Failed`, and the reason of `Running`."""
    status = training.of(job(), seen, claim="c", waiting="", now=NOW, bounds=bounds)
    told = {condition.type: condition for condition in status.conditions}
    assert [told[kind].status for kind in ("Accepted", "Running", "Failed")] == expected.split()
    assert told["Running"].reason == reason


def test_of_pods_that_train_together_the_first_one_speaks() -> None:
    index = "batch.kubernetes.io/job-completion-index"
    first, second = pod("Failed", DONE), pod("Failed", DONE | {"message": "of the second"})
    first["metadata"]["labels"], second["metadata"]["labels"] = {index: "0"}, {index: "1"}
    assert (Stage({}, (second, first)).outcome or {})["message"] == DONE["message"]


def test_the_size_of_the_model_outlives_the_check_that_found_it() -> None:
    sizes = {"parameters": 8_030_261_248, "hidden_size": 4096, "layers": 32, "vocabulary_size": 128_256}
    checked = Stage(ended("Complete"), (pod("Succeeded", VALID | {"model": sizes}, exitCode=0),))
    found = training.model(FineTuneJobStatus(), Seen(checked, Stage()))
    assert found.model_dump() == sizes
    assert training.model(FineTuneJobStatus(base_model=found), Seen(Stage(), Stage())) == found
