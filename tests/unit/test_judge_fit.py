"""Memory that a run needs, against figures worked out by hand; and time that it has used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops.api.fine_tune_status import BaseModelStatus, UsageStatus
from llmops.config import Profile
from llmops.judge import budget, fit

Json = dict[str, Any]
LLAMA_8B = BaseModelStatus(parameters=8_030_261_248, hidden_size=4096, layers=32, vocabulary_size=128_256)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def spec(**changes: Any) -> FineTuneJobSpec:
    given: Json = {"baseModel": {"source": "hf://o/m"}, "dataset": {"source": "s3://bucket/t.jsonl"}, **changes}
    return FineTuneJobSpec.model_validate(given, by_alias=True, by_name=False)


SMALL = {"per_device_train_batch_size": 1, "max_length": 1024}
# weights; training state; activations: 1024 tokens x (4096 x (2 x 32 + 34) + 128256 x 8), all in bytes
ACTIVATIONS = 1024 * (4096 * 98 + 128_256 * 8)
ADAPTER = 16 * 20 * 16 * 4096 * 32
NEEDS: list[tuple[str, Json, int, int, int]] = [
    ("an adapter", {}, 2 * 8_030_261_248, ADAPTER, ACTIVATIONS),
    ("one twice as wide", {"lora": {"r": 32}}, 2 * 8_030_261_248, 2 * ADAPTER, ACTIVATIONS),
    ("every weight", {"method": "Full"}, 4 * 8_030_261_248, 12 * 8_030_261_248, ACTIVATIONS),
    ("preferences, of two answers each", {"method": "DPO"}, 2 * 8_030_261_248, ADAPTER, 2 * ACTIVATIONS),
    (
        "four bits",
        {"method": "QLoRA", "accelerator": {"profile": "l4"}},
        int(0.516 * (8_030_261_248 - 2 * 128_256 * 4096)) + 4 * 128_256 * 4096,
        ADAPTER,
        ACTIVATIONS,
    ),
]


@pytest.mark.parametrize(
    ("changes", "weights", "training", "activations"), [case[1:] for case in NEEDS], ids=[case[0] for case in NEEDS]
)
def test_memory_is_what_the_formulas_say(changes: Json, weights: int, training: int, activations: int) -> None:
    needed = fit.need(spec(hyperparameters=SMALL, **changes), LLAMA_8B, gpu=True)
    assert (needed.weights, needed.training, needed.activations) == (weights, training, activations)


def profile(**changes: Any) -> Profile:
    return Profile.model_validate({"image": "i", "resource": "nvidia.com/gpu", "memory": "24Gi", **changes})


def test_what_does_not_fit_says_how_much_it_needs_and_what_helps() -> None:
    whole = fit.shortage(spec(method="Full", accelerator={"profile": "l4"}), LLAMA_8B, profile())
    assert whole.startswith(
        "A process needs 131.6 GiB (weights 29.9 GiB, training state 89.7 GiB, activations 10.9 GiB)"
    )
    assert "profile 'l4' has 24.0 GiB. Use method LoRA" in whole
    wide = fit.shortage(spec(accelerator={"profile": "l4"}, hyperparameters={"max_length": 8192}), LLAMA_8B, profile())
    assert "Lower hyperparameters.per_device_train_batch_size or max_length." in wide
    big = fit.shortage(spec(accelerator={"profile": "l4"}, hyperparameters=SMALL), LLAMA_8B, profile(memory="16Gi"))
    assert "or method QLoRA. To try all the same, annotate this job with llmops.dev/skip-fit-check=true." in big


UNKNOWN: list[tuple[str, BaseModelStatus, Profile]] = [
    ("it fits", LLAMA_8B, profile()),
    ("the memory is not configured", LLAMA_8B, profile(memory=None)),
    ("the size of the model was not told", BaseModelStatus(), profile(memory="1Gi")),
]


@pytest.mark.parametrize(("model", "chosen"), [case[1:] for case in UNKNOWN], ids=[case[0] for case in UNKNOWN])
def test_nothing_is_refused_that_fits_or_that_nobody_knows(model: BaseModelStatus, chosen: Profile) -> None:
    assert fit.shortage(spec(hyperparameters=SMALL), model, chosen) == ""


def test_on_a_cpu_the_limit_of_the_pod_is_the_memory() -> None:
    cpu = profile(resource=None, memory=None, resources={"limits": {"memory": "16Gi"}})
    assert "has 16.0 GiB" in fit.shortage(spec(), LLAMA_8B, cpu)


def pod(name: str, began: timedelta, ended: timedelta | None = None) -> Json:
    status: Json = {"phase": "Running", "startTime": (NOW - began).isoformat()}
    if ended is not None:
        state = {"terminated": {"finishedAt": (NOW - ended).isoformat()}}
        status |= {"phase": "Failed", "containerStatuses": [{"state": state}]}
    return {"metadata": {"name": name}, "status": status}


MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
COSTLY = spec(accelerator={"count": 2}, budget={"gpuHours": "1"})


def test_time_is_counted_for_every_accelerator_and_once() -> None:
    both = [pod("a", 10 * MINUTE, 5 * MINUTE), pod("b", 4 * MINUTE)]
    first = budget.used(COSTLY, UsageStatus(), both, NOW)
    assert (first.accelerator_seconds, first.pods) == (1080, {"a": 600, "b": 480})
    later = budget.used(COSTLY, first, [both[1]], NOW + MINUTE)  # the failed pod was removed, the other goes on
    assert (later.accelerator_seconds, later.pods) == (1200, {"b": 600})
    again = budget.used(COSTLY, later, [], NOW + HOUR)  # suspended
    assert (again.accelerator_seconds, again.pods) == (1200, {})


def test_a_pod_that_no_node_has_taken_costs_nothing() -> None:
    assert budget.used(COSTLY, UsageStatus(), [{"metadata": {"name": "a"}}], NOW).accelerator_seconds == 0


def test_a_budget_ends_when_its_hours_are_used() -> None:
    for seconds, over in ((3599, False), (3600, True)):
        assert bool(budget.exhausted(COSTLY, UsageStatus(accelerator_seconds=seconds))) is over
    assert budget.exhausted(spec(), UsageStatus(accelerator_seconds=10**9)) == ""


def test_the_status_moves_in_coarse_steps_while_a_pod_runs() -> None:
    before = UsageStatus(accelerator_seconds=100, pods={"a": 100})
    little, much = (UsageStatus(accelerator_seconds=total, pods={"a": total}) for total in (120, 140))
    gone = UsageStatus(accelerator_seconds=110)
    assert budget.shown(COSTLY, before, little, running=True) == before
    assert [budget.shown(COSTLY, before, exact, running=True) for exact in (much, gone)] == [much, gone]
    assert budget.shown(COSTLY, before, little, running=False) == little
