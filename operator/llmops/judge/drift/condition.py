"""The `Drifted` condition out of what is remembered of every signal.

It gives the same answer to the same memories, so that a status written from it does not move by itself: a message
quotes the score at which drift began, not the one of this minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from llmops.api.conditions import Reason
from llmops.api.drift import INPUTS, SERIES, DriftSpec, Signal
from llmops.api.drift_state import Doubt, Memory, Onset, State
from llmops.judge.verdict import Verdict

OUTPUTS: frozenset[Signal] = frozenset(SERIES) - INPUTS


def condition(memories: Mapping[Signal, Memory], spec: DriftSpec, *, name: str) -> Verdict:
    """One verdict for all signals: the worst known fact first, then what is not known, then peace.

    An acknowledged drift is still a drift, so the status stays True; the reason tells the two apart. A signal that
    drifts says so even while another one is in doubt.

    Args:
        memories: By signal, in the order of the spec.
        spec: What was asked for.
        name: The deployment, for the commands in the message.
    """
    if drifting := _in(memories, State.DRIFTING):
        remedy = f"Look, then run `llmops drift ack {name}` or `llmops drift rebase {name}`."
        return Verdict("True", Reason.DRIFTING, f"{_found(drifting)} {_hint(drifting)} {remedy}")
    if accepted := _in(memories, State.ACKNOWLEDGED):
        return Verdict("True", Reason.ACKNOWLEDGED, f"{_found(accepted)} Acknowledged.")
    doubts = {signal: memory.doubt for signal, memory in memories.items() if memory.doubt}
    if doubts:
        first = min(doubts.values(), key=list(_DOUBTS).index)
        signals = ", ".join(signal for signal, doubt in doubts.items() if doubt is first)
        return Verdict("Unknown", Reason(first), f"{signals}: {_DOUBTS[first].format(name=name)}")
    if learning := _in(memories, State.LEARNING, State.REBASED):
        rebased = any(memory.state is State.REBASED for memory in learning.values())
        return Verdict("Unknown", Reason.REBASED if rebased else Reason.LEARNING, _lesson(learning, spec))
    return Verdict("False", Reason.ARMED, f"Watching {', '.join(memories)}.")


# The more it hides, the earlier it is told.
_DOUBTS = {
    Doubt.NO_PROMETHEUS: "no Prometheus answers. Set or check metrics.prometheus.url of the chart.",
    Doubt.RULES_NOT_LOADED: "Prometheus does not evaluate the rules in {name}-drift-rules. Let it select the "
    "PrometheusRule, or mount the ConfigMap (docs/drift.md).",
    Doubt.SIGNAL_MISSING: "there is traffic, but no series with the baseline's buckets. Check the gateway's scrape.",
    Doubt.ROLLING_OUT: "waiting for the rollout to end.",
    Doubt.SCALED_TO_ZERO: "scaled to zero: there is no traffic to compare.",
    Doubt.TOO_FEW_SAMPLES: "too few requests in the window to tell. A longer spec.drift.window sees more.",
}


def _in(memories: Mapping[Signal, Memory], *states: State) -> dict[Signal, Memory]:
    return {signal: memory for signal, memory in memories.items() if memory.state in states}


def _lesson(learning: Mapping[Signal, Memory], spec: DriftSpec) -> str:
    until = max(memory.learn_from for memory in learning.values()) + timedelta(days=spec.baseline.min_days)
    return (
        f"{', '.join(learning)}: no baseline yet; learning it at least until {until:%Y-%m-%dT%H:%M:%SZ}, from "
        f"{spec.baseline.min_samples} requests or more and eight windows ({spec.window}) of 200."
    )


def _found(drifting: Mapping[Signal, Memory]) -> str:
    return " ".join(_sentence(signal, memory.onset) for signal, memory in drifting.items() if memory.onset)


def _sentence(signal: Signal, onset: Onset) -> str:
    bins = ", ".join(f"{label} ({term:.3f})" for label, term in onset.bins)
    return (
        f"{signal} since {onset.since:%Y-%m-%dT%H:%M:%SZ}: debiased PSI {onset.debiased:.3f} over "
        f"{onset.threshold:.3f}, n={onset.samples}, most in bins {bins}."
    )


def _hint(drifting: Mapping[Signal, Memory]) -> str:
    """Which side to look at first."""
    outputs = OUTPUTS & drifting.keys()
    if outputs and len(outputs) < len(drifting):
        return "Requests and answers changed together: look at the traffic."
    if outputs:
        return "Answers changed and requests did not: look at model, adapter, chat template and quantisation."
    return "Requests changed and answers did not: look at the clients."
