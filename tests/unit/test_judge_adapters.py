"""Which adapters a pod is given, what it is believed to serve, and what is told of those it does not."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from llmops import names
from llmops.api.conditions import Reason
from llmops.api.drift import ActionSpec, DriftSpec
from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.llm_deployment import AdapterSpec, LLMDeployment, ModelStatus
from llmops.api.meta import Condition
from llmops.api.problem import NeedsUser
from llmops.judge import adapters
from llmops.judge.adapters import Failed, Found, Record
from llmops.shell import finetunes

Json = dict[str, Any]
ONE, TWO = "sha256:1111", "sha256:2222"


def deployment(*served: Json) -> LLMDeployment:
    return LLMDeployment.from_manifest(
        {
            "apiVersion": "llmops.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": "support", "namespace": "a"},
            "spec": {
                "model": {"source": "hf://o/m"},
                "adapters": [{"name": "t", "source": "finetune://tickets"}],
                "replicas": 1,
            },
            "status": {"adapters": list(served)},
        }
    )


def job(digest: str | None = None, **spec: Any) -> FineTuneJob:
    complete = {
        "type": "Complete",
        "status": "True" if digest else "False",
        "reason": "Completed" if digest else "Training",
        "message": "Step 3 of 20.",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-11-21T12:00:00Z",
    }
    artifact = {"uri": "pvc://tickets-finetune/artifact/1f0c", "digest": digest} if digest else {}
    return FineTuneJob.from_manifest(
        {
            "apiVersion": "llmops.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "tickets", "namespace": "a", "uid": "u", "generation": 1},
            "spec": {"baseModel": {"source": "hf://o/m"}, "dataset": {"source": "s3://bucket/t.jsonl"}, **spec},
            "status": {"conditions": [complete], "artifact": artifact},
        }
    )


def found(job: FineTuneJob | None, *served: Json, drifting: str = "") -> Found:
    llm = deployment(*served)
    if drifting:
        frozen = DriftSpec(actions=[ActionSpec(type="FreezePromotion")])
        seen = Condition(
            type="Drifted", status="True", reason=drifting, last_transition_time=datetime(2026, 11, 21, tzinfo=UTC)
        )
        llm = llm.model_copy(
            update={
                "spec": llm.spec.model_copy(update={"drift": frozen}),
                "status": llm.status.model_copy(update={"conditions": [seen]}),
            }
        )
    return adapters.found(llm, llm.spec.adapters[0], job, max_rank=64)


def restored(model: Json | None) -> Found:
    llm = deployment()
    source = AdapterSpec(name="t", source="backup://support@2026-11-20T03:00:00Z")
    return adapters.restored(llm, source, ModelStatus.model_validate(model) if model is not None else None)


RESTORED: Json = {"adapters": [{"name": "t", "digest": ONE}, {"name": "u", "digest": TWO}]}


def test_an_adapter_of_a_restore_point_is_there_when_the_model_is() -> None:
    assert restored(RESTORED) == Found(Reason.ADAPTER_LOADING, digest=ONE, restored=True)
    waiting = restored(None)
    assert (waiting.reason, waiting.digest) == (Reason.ADAPTER_PENDING, None)
    other = restored({"adapters": [{"name": "u", "digest": TWO}]})
    assert (other.reason, other.message) == (
        Reason.ADAPTER_NOT_FOUND,
        "backup://support@2026-11-20T03:00:00Z has no adapter t: its adapters are u.",
    )


def test_on_a_restored_model_the_engines_answers_prove_an_adapter_and_not_its_source() -> None:
    llm = deployment()
    model = llm.spec.model.model_copy(update={"source": "backup://support"})
    llm = llm.model_copy(update={"spec": llm.spec.model_copy(update={"model": model})})
    assert adapters.found(llm, llm.spec.adapters[0], job(ONE), max_rank=64).digest == ONE


SERVED = {"name": "t", "source": "finetune://tickets", "digest": ONE}


def test_an_adapter_is_loaded_when_its_job_is_complete() -> None:
    seen = found(job(ONE))
    assert (seen.digest, seen.job, seen.path) == (ONE, "tickets", "artifact/1f0c")


@pytest.mark.parametrize("gone", [None, job()], ids=["deleted", "made anew"])
def test_what_was_served_outlives_the_job_that_made_it(gone: FineTuneJob | None) -> None:
    assert (found(gone, SERVED).digest, found(gone, SERVED).job) == (ONE, None)
    assert found(gone, SERVED | {"source": "finetune://other"}).digest is None


UNFIT: list[tuple[str, FineTuneJob | None, str, str]] = [
    ("no such job", None, "AdapterNotFound", "does not exist"),
    ("not trained yet", job(), "AdapterPending", "is not complete: Step 3 of 20."),
    ("another base model", job(ONE, baseModel={"source": "hf://o/other"}), "AdapterMismatch", "fits only the model"),
    ("another revision", job(ONE, baseModel={"source": "hf://o/m", "revision": "v2"}), "AdapterMismatch", "fits only"),
    ("whole weights", job(ONE, method="Full"), "AdapterMismatch", "makes no adapter"),
    ("a wide adapter", job(ONE, lora={"r": 65}), "AdapterTooLarge", "raise spec.engine.lora.maxRank"),
]


@pytest.mark.parametrize(("made", "reason", "says"), [case[1:] for case in UNFIT], ids=[case[0] for case in UNFIT])
def test_what_cannot_be_loaded_is_told(made: FineTuneJob | None, reason: str, says: str) -> None:
    seen = found(made)
    assert (seen.digest, seen.reason) == (None, reason)
    assert says in seen.message
    assert adapters.verdict({"t": seen}, [Record("e")]).reason == reason


@pytest.mark.parametrize(
    ("served", "made", "drifting", "digest", "reason"),
    [
        pytest.param([], job(ONE), "Drifting", None, "AdapterHeld", id="a new one waits"),
        pytest.param([SERVED], job(ONE), "Drifting", ONE, "AdapterLoading", id="the one that serves goes on"),
        pytest.param([SERVED], job(TWO), "Drifting", ONE, "AdapterHeld", id="the old one goes on, the new one waits"),
        pytest.param([SERVED], job(TWO), "Acknowledged", TWO, "AdapterLoading", id="acknowledged: promoted"),
        pytest.param([SERVED], job(TWO), "Armed", TWO, "AdapterLoading", id="no drift: promoted"),
    ],
)
def test_promotion_is_frozen_while_traffic_drifts(
    served: list[Json], made: FineTuneJob, drifting: str, digest: str | None, reason: str
) -> None:
    seen = found(made, *served, drifting=drifting)
    assert (seen.digest, seen.reason) == (digest, reason)


SETTLED: list[tuple[str, Record, Json, bool]] = [
    ("nothing wished, nothing loaded", Record("e"), {}, True),
    ("one to load", Record("e"), {"t": ONE}, False),
    ("it is loaded", Record("e", {"t": ONE}), {"t": ONE}, True),
    ("another digest of it", Record("e", {"t": ONE}), {"t": TWO}, False),
    ("one to unload", Record("e", {"t": ONE}), {}, False),
    ("it failed", Record("e", {}, {"t": Failed(ONE, Reason.ADAPTER_NO_EFFECT, "")}), {"t": ONE}, True),
    ("another failed", Record("e", {}, {"t": Failed(ONE, Reason.ADAPTER_NO_EFFECT, "")}), {"t": TWO}, False),
]


@pytest.mark.parametrize(
    ("record", "wished", "settled"), [case[1:] for case in SETTLED], ids=[case[0] for case in SETTLED]
)
def test_a_pod_is_left_alone_when_nothing_is_to_do(record: Record, wished: Json, *, settled: bool) -> None:
    assert record.settles(wished) is settled


def pod(annotations: Json, container: str = "containerd://1") -> Json:
    status = {"containerStatuses": [{"name": "engine", "containerID": container, "state": {"running": {}}}]}
    return {"metadata": {"name": "e", "annotations": annotations}, "status": status}


def test_a_record_is_read_as_it_was_written_and_not_after_a_restart() -> None:
    record = Record("containerd://1", {"t": ONE}, {"u": Failed(TWO, Reason.ADAPTER_MISMATCH, "no")})
    carried = record.annotations({"t": ONE})
    assert carried[names.ADAPTERS_ANNOTATION] == "t"
    assert adapters.record(pod(carried), adapters.start(pod(carried), "engine")) == record
    again = pod(carried, container="containerd://2")
    assert adapters.record(again, adapters.start(again, "engine")) == Record("containerd://2")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"engine":"e","loaded":[],"failed":{"t":1}}'])
def test_a_record_that_somebody_else_wrote_is_no_record(text: str) -> None:
    assert adapters.record(pod({names.ADAPTERS_RECORD: text}), "e") == Record("e")


def test_gateways_are_told_of_nothing_that_is_not_wished_for_any_more() -> None:
    assert Record("e", {"t": ONE, "u": TWO}).annotations({"u": TWO})[names.ADAPTERS_ANNOTATION] == "u"


def ended(kind: str) -> Json:
    return {"status": {"conditions": [{"type": kind, "status": "True"}]}}


def said(**outcome: Any) -> list[Json]:
    message = json.dumps({"outcome": "AdaptersLoaded", "message": "said", **outcome})
    state = {"terminated": {"message": message, "finishedAt": "2026-11-21T12:00:00Z"}}
    return [{"status": {"containerStatuses": [{"name": "adapters", "state": state}]}}]


BAD = {"reason": "AdapterNoEffect", "message": "0.0000 nats"}
NO_EFFECT = Failed(TWO, Reason.ADAPTER_NO_EFFECT, "0.0000 nats")
NO_ANSWER = Failed(TWO, Reason.ADAPTER_LOAD_FAILED, "said")
OUTCOMES: list[tuple[str, Record, Json, list[Json], Record | None]] = [
    ("it goes on", Record("e"), {}, [], None),
    ("all are proven", Record("e"), ended("Complete"), said(failed={}), Record("e", {"t": TWO})),
    ("one has no effect", Record("e"), ended("Complete"), said(failed={"t": BAD}), Record("e", {}, {"t": NO_EFFECT})),
    (
        "its successor has no effect",
        Record("e", {"t": ONE}),
        ended("Complete"),
        said(failed={"t": BAD}),
        Record("e", {"t": ONE}, {"t": NO_EFFECT}),
    ),
    ("the engine never answered", Record("e"), ended("Failed"), said(), Record("e", {}, {"t": NO_ANSWER})),
    ("what failed was too much to tell", Record("e"), ended("Complete"), said(), Record("e", {}, {"t": NO_ANSWER})),
]


@pytest.mark.parametrize(
    ("before", "job", "pods", "record"), [case[1:] for case in OUTCOMES], ids=[case[0] for case in OUTCOMES]
)
def test_what_the_job_found_is_believed(before: Record, job: Json, pods: list[Json], record: Record | None) -> None:
    assert adapters.after(before, job, pods, {"t": TWO}) == record


def test_the_condition_is_true_when_every_pod_serves_every_adapter() -> None:
    known = {"t": Found(Reason.ADAPTER_LOADING, digest=ONE)}
    loaded, empty = Record("e", {"t": ONE}), Record("f")
    failed = Record("g", {}, {"t": Failed(ONE, Reason.ADAPTER_NO_EFFECT, "0.0000 nats")})
    told = [adapters.verdict(known, records) for records in ([], [loaded], [loaded, empty], [loaded, failed])]
    assert [(each.status, each.reason) for each in told] == [
        ("Unknown", "AdapterLoading"),
        ("True", "AdaptersLoaded"),
        ("False", "AdapterLoading"),
        ("False", "AdapterNoEffect"),
    ]
    status = adapters.statuses(deployment(), known, [loaded, failed])[0]
    assert (status.ready_replicas, status.digest, status.message) == (1, ONE, "0.0000 nats")


class Stored:
    """A cluster that holds one FineTuneJob, as an older version of the definition let it in."""

    def __init__(self, live: Json | None) -> None:
        self.live = live

    async def get(self, *_: object) -> Json | None:
        return self.live


def named(live: Json | None) -> FineTuneJob | None:
    world: Any = SimpleNamespace(cluster=Stored(live))
    return asyncio.run(finetunes.named("a", "tickets", world))


def test_a_job_that_no_longer_parses_is_told_and_not_taken_for_missing() -> None:
    assert named(None) is None
    head = {"apiVersion": "llmops.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "tickets"}}
    with pytest.raises(NeedsUser, match=r"FineTuneJob tickets, which this names, cannot be read \(spec.baseModel"):
        named({**head, "spec": {"dataset": {"source": "s3://bucket/t.jsonl"}}})
