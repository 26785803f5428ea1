"""What the `Drifted` condition says about the memories of all signals."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from llmops.api.drift import BaselineSpec, DriftSpec, Signal
from llmops.api.drift_state import Doubt, Memory, Onset, State
from llmops.judge.drift.condition import condition

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
SPEC = DriftSpec(baseline=BaselineSpec(min_days=2))
ONSET = Onset(
    since=START,
    debiased=0.4661,
    threshold=0.1,
    samples=500,
    bins=(("0-100", 0.2534), ("800-+Inf", 0.1371), ("100-200", 0.068)),
)


def memory(state: State, *, doubt: Doubt | None = None) -> Memory:
    onset = ONSET if state in (State.DRIFTING, State.ACKNOWLEDGED) else None
    return Memory(key="k", state=state, since=START, learn_from=START, onset=onset, doubt=doubt)


FOUND = (
    "PromptTokens since 2026-11-20T12:00:00Z: debiased PSI 0.466 over 0.100, n=500, "
    "most in bins 0-100 (0.253), 800-+Inf (0.137), 100-200 (0.068)."
)
REMEDY = "Look, then run `llmops drift ack support` or `llmops drift rebase support`."
LESSON = (
    "PromptTokens: no baseline yet; learning it at least until 2026-11-22T12:00:00Z, from 2000 requests or more and "
    "eight windows (1h) of 200."
)
CASES: dict[str, tuple[dict[Signal, Memory], tuple[str, str, str]]] = {
    "learning": ({"PromptTokens": memory(State.LEARNING)}, ("Unknown", "Learning", LESSON)),
    "rebased": ({"PromptTokens": memory(State.REBASED)}, ("Unknown", "Rebased", LESSON)),
    "peace": ({"PromptTokens": memory(State.ARMED)}, ("False", "Armed", "Watching PromptTokens.")),
    "too few samples is not peace": (
        {"PromptTokens": memory(State.ARMED, doubt=Doubt.TOO_FEW_SAMPLES)},
        (
            "Unknown",
            "TooFewSamples",
            "PromptTokens: too few requests in the window to tell. A longer spec.drift.window sees more.",
        ),
    ),
    "one signal in doubt is a doubt, and the one that hides most is told": (
        {
            "PromptTokens": memory(State.ARMED, doubt=Doubt.TOO_FEW_SAMPLES),
            "FinishReason": memory(State.ARMED, doubt=Doubt.NO_PROMETHEUS),
        },
        (
            "Unknown",
            "NoPrometheus",
            "FinishReason: no Prometheus answers. Set or check metrics.prometheus.url of the chart.",
        ),
    ),
    "drift outweighs doubt": (
        {"PromptTokens": memory(State.DRIFTING), "FinishReason": memory(State.ARMED, doubt=Doubt.NO_PROMETHEUS)},
        ("True", "Drifting", f"{FOUND} Requests changed and answers did not: look at the clients. {REMEDY}"),
    ),
    "acknowledged": (
        {"PromptTokens": memory(State.ACKNOWLEDGED)},
        ("True", "Acknowledged", f"{FOUND} Acknowledged."),
    ),
}


@pytest.mark.parametrize(("memories", "said"), CASES.values(), ids=CASES)
def test_condition(memories: dict[Signal, Memory], said: tuple[str, str, str]) -> None:
    found = condition(memories, SPEC, name="support")
    assert (found.status, found.reason, found.message) == said


@pytest.mark.parametrize("doubt", Doubt)
def test_every_doubt_has_a_reason_and_a_remedy(doubt: Doubt) -> None:
    found = condition({"PromptTokens": memory(State.ARMED, doubt=doubt)}, SPEC, name="support")
    assert (found.status, found.reason) == ("Unknown", doubt.value)


@pytest.mark.parametrize(
    ("drifting", "hint"),
    [
        (["PromptTokens"], "look at the clients"),
        (["CompletionTokens"], "look at model, adapter, chat template and quantisation"),
        (["PromptTokens", "CompletionTokens"], "look at the traffic"),
    ],
    ids=["input", "output", "both"],
)
def test_where_to_look_first(drifting: list[Signal], hint: str) -> None:
    assert hint in condition(dict.fromkeys(drifting, memory(State.DRIFTING)), SPEC, name="support").message
