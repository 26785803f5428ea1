"""The life of a drift verdict: Learning -> Armed -> Drifting -> Acknowledged | Rebased, as one pure step.

`step` takes what was remembered and what is seen, and returns what to remember; `condition` turns the memories of all
signals into the one `Drifted` condition. Both give the same answer to the same question, so that a status written
from them does not move by itself: a message quotes the score at which drift began, not the one of this minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from llmops.api.drift import ActionSpec, FrozenBaseline, Signal
from llmops.judge.drift.statistic import Score
from llmops.judge.drift.threshold import exceeds

PERSISTENCE = timedelta(minutes=15)  # a score must lie over its bars this long to alarm, and under them to clear
WORSE = 1.5  # an acknowledged drift that grows by this factor is a new one
OUTPUTS: frozenset[Signal] = frozenset({"CompletionTokens", "FinishReason"})


class State(StrEnum):
    """Where a signal stands."""

    LEARNING = "Learning"
    ARMED = "Armed"
    DRIFTING = "Drifting"
    ACKNOWLEDGED = "Acknowledged"
    REBASED = "Rebased"  # the owner said that this is the new normal: learning again


class Doubt(StrEnum):
    """Why nobody can tell: never the same as "no drift"."""

    TOO_FEW_SAMPLES = "TooFewSamples"
    NO_PROMETHEUS = "NoPrometheus"
    SIGNAL_MISSING = "SignalMissing"
    ROLLING_OUT = "RollingOut"
    SCALED_TO_ZERO = "ScaledToZero"


@dataclass(frozen=True, kw_only=True)
class Onset:
    """A drift when it was found: what its message quotes for as long as it lasts."""

    since: datetime
    debiased: float
    threshold: float
    samples: int
    bins: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What is remembered of one signal between two looks.

    `turning_since`: when the score first lay on the other side of its bars, if it does; `doubt`: of the last look.
    """

    state: State = State.LEARNING
    since: datetime
    turning_since: datetime | None = None
    onset: Onset | None = None
    doubt: Doubt | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one look at a signal found.

    `baseline` None: still being learned. `score` None needs a `doubt` that says why. `excused`: the same hour of last
    week looked like this too. `acknowledged` and `rebased`: when the owner last said so.
    """

    baseline: FrozenBaseline | None
    score: Score | None = None
    doubt: Doubt | None = None
    excused: bool = False
    acknowledged: datetime | None = None
    rebased: datetime | None = None


def step(memory: Memory, seen: Seen, now: datetime) -> Memory:
    """What to remember after this look. A doubt pauses everything and changes nothing else."""
    learning = memory.state in (State.LEARNING, State.REBASED)
    baseline = seen.baseline
    if baseline is None or (seen.rebased and baseline.frozen_at <= seen.rebased):
        again = State.REBASED if seen.rebased and seen.rebased > memory.since else State.LEARNING
        return memory if learning else Memory(state=again, since=now)
    if learning:
        memory = Memory(state=State.ARMED, since=now)
    score = seen.score
    if seen.doubt or score is None or score.samples < baseline.min_samples:
        return replace(memory, doubt=seen.doubt or Doubt.TOO_FEW_SAMPLES, turning_since=None)
    memory = replace(memory, doubt=None)
    drifting = memory.onset if memory.state is State.DRIFTING else None
    if drifting and seen.acknowledged and seen.acknowledged >= drifting.since:
        memory = replace(memory, state=State.ACKNOWLEDGED, since=now, turning_since=None)
    return _turned(memory, score, baseline, now, over=exceeds(score, baseline) and not seen.excused)


def _turned(memory: Memory, score: Score, baseline: FrozenBaseline, now: datetime, *, over: bool) -> Memory:
    """Armed while over, drifting while under, acknowledged while under or far worse: a turn, once it has lasted."""
    grown = memory.onset is not None and score.debiased > WORSE * memory.onset.debiased
    match memory.state:
        case State.ARMED:
            turning = over
        case State.ACKNOWLEDGED:
            turning = not over or grown
        case _:
            turning = not over
    if not turning:
        return replace(memory, turning_since=None)
    since = memory.turning_since or now
    if now - since < PERSISTENCE:
        return replace(memory, turning_since=since)
    if over:
        return Memory(state=State.DRIFTING, since=now, onset=_onset(score, baseline, since))
    return Memory(state=State.ARMED, since=now)


def _onset(score: Score, baseline: FrozenBaseline, since: datetime) -> Onset:
    labelled = zip((each.label for each in baseline.bins), score.terms, strict=True)
    most = sorted(labelled, key=lambda pair: -pair[1])[:3]
    return Onset(
        since=since,
        debiased=score.debiased,
        threshold=baseline.threshold,
        samples=round(score.samples),
        bins=tuple(most),
    )


@dataclass(frozen=True, kw_only=True)
class Drifted:
    """The `Drifted` condition: status, reason from a closed set, message."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def condition(memories: Mapping[Signal, Memory], *, name: str) -> Drifted:
    """One condition for all signals: the worst known fact first, then what is not known, then peace.

    An acknowledged drift is still a drift, so the status stays True; the reason tells the two apart. A signal that
    drifts says so even while another one is in doubt.

    Args:
        memories: By signal, in the order of the spec.
        name: The deployment, for the commands in the message.
    """
    by_state = {state: {s: m for s, m in memories.items() if m.state is state} for state in State}
    if drifting := by_state[State.DRIFTING]:
        remedy = f"Look, then run `llmops drift ack {name}` or `llmops drift rebase {name}`."
        return Drifted(status="True", reason="Drifting", message=f"{_found(drifting)} {_hint(drifting)} {remedy}")
    if accepted := by_state[State.ACKNOWLEDGED]:
        return Drifted(status="True", reason="Acknowledged", message=f"{_found(accepted)} Acknowledged.")
    doubts = {signal: memory.doubt for signal, memory in memories.items() if memory.doubt}
    if doubts:
        signals = ", ".join(doubts)
        doubt = next(iter(doubts.values()))
        return Drifted(status="Unknown", reason=doubt, message=f"{signals}: {_DOUBTS[doubt]}")
    if learning := by_state[State.LEARNING] | by_state[State.REBASED]:
        reason = "Rebased" if by_state[State.REBASED] else "Learning"
        return Drifted(status="Unknown", reason=reason, message=f"{', '.join(learning)}: no baseline yet; learning it.")
    return Drifted(status="False", reason="Armed", message=f"Watching {', '.join(memories)}.")


_DOUBTS = {
    Doubt.TOO_FEW_SAMPLES: "too few requests in the window to tell. A longer spec.drift.window sees more.",
    Doubt.NO_PROMETHEUS: "Prometheus does not answer. Check its address in the operator's configuration.",
    Doubt.SIGNAL_MISSING: "there is traffic, but no series with the baseline's buckets. Check the gateway's scrape.",
    Doubt.ROLLING_OUT: "waiting for the rollout to end.",
    Doubt.SCALED_TO_ZERO: "scaled to zero: there is no traffic to compare.",
}


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


def due(actions: Sequence[ActionSpec], done: Mapping[str, datetime], now: datetime) -> tuple[ActionSpec, ...]:
    """The actions to take for a drift that is there now; `done` says when each type was last taken."""
    cool = ((each, timedelta(seconds=each.cooldown_seconds), done.get(each.type)) for each in actions)
    return tuple(each for each, pause, last in cool if last is None or now - last >= pause)
