"""The life of a drift verdict: Learning -> Armed -> Drifting -> Acknowledged | Rebased, as one pure step.

Prometheus says when drift begins: its alert has the score, the bar and the patience, survives restarts of both, and
then condition and alert cannot disagree. `step` takes what was remembered and what is seen, and returns what to
remember. A doubt pauses everything and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from llmops.api.drift import Action, ActionSpec, DriftSpec, FrozenBaseline, Window
from llmops.api.drift_state import Doubt, Memory, Onset, State
from llmops.judge.drift.statistic import Score
from llmops.judge.drift.threshold import exceeds, min_samples

WORSE = 1.5  # an acknowledged drift that grows by this factor is a new one


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Prometheus' alert of a signal: over its bar since then, and `firing` once that has lasted."""

    since: datetime
    firing: bool


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one look at a signal found.

    `key`: what a baseline must be valid for now. `baseline`: the stored one, whatever it is valid for, with the bar
    that the owner wants. `score` None needs a `doubt` that says why; neither: nobody has looked yet. `acknowledged`,
    `rebased`: when the owner last said so. `learn_from`: where a signal that was never watched begins to learn.
    """

    key: str
    window: Window
    persistence: timedelta = timedelta(minutes=15)
    learn_from: datetime | None = None
    baseline: FrozenBaseline | None = None
    score: Score | None = None
    alert: Alert | None = None
    doubt: Doubt | None = None
    acknowledged: datetime | None = None
    rebased: datetime | None = None


def step(memory: Memory | None, seen: Seen, now: datetime) -> Memory:
    """What to remember after this look."""
    memory = _current(memory, seen, now)
    baseline = seen.baseline
    if baseline is None or not valid(baseline, memory, seen.window):
        if not memory.learning:
            memory = _turned(memory, State.LEARNING, now)
        return memory.model_copy(update={"doubt": seen.doubt})
    if memory.learning:
        memory = _turned(memory, State.ARMED, now)
    if seen.doubt or seen.score is None:
        doubt = seen.doubt or memory.doubt
        return memory.model_copy(update={"doubt": doubt, "turning_since": None if seen.doubt else memory.turning_since})
    memory = memory.model_copy(update={"doubt": None})
    return _judged(memory, seen, baseline, seen.score, now)


def valid(baseline: FrozenBaseline, memory: Memory, window: Window) -> bool:
    """Whether a baseline was learned from the traffic, and for the window, that count now."""
    of = (baseline.key, baseline.window, baseline.learned_from)
    return of == (memory.key, window, memory.learn_from)


def _current(memory: Memory | None, seen: Seen, now: datetime) -> Memory:
    """The memory, or a new one: of a signal never seen, of another model, or where its owner wanted a new baseline."""
    if memory is None:
        return Memory(key=seen.key, since=now, learn_from=seen.learn_from or now)
    if memory.key != seen.key:
        return Memory(key=seen.key, since=now, learn_from=now)
    if seen.rebased and seen.rebased > memory.learn_from:
        return Memory(key=seen.key, state=State.REBASED, since=now, learn_from=seen.rebased)
    return memory


def _judged(memory: Memory, seen: Seen, baseline: FrozenBaseline, score: Score, now: datetime) -> Memory:
    alert, onset = seen.alert, memory.onset
    if memory.state is State.ARMED or onset is None:
        if alert is None or not alert.firing:
            return memory
        return _turned(memory, State.DRIFTING, now, onset=_onset(score, baseline, alert.since))
    if memory.state is State.DRIFTING:
        if seen.acknowledged and seen.acknowledged >= onset.since:
            return _turned(memory, State.ACKNOWLEDGED, now, onset=onset)
        return _calmed(memory, seen, now, calm=alert is None)
    if alert is not None and alert.firing and score.debiased > WORSE * onset.debiased:
        return _turned(memory, State.DRIFTING, now, onset=_onset(score, baseline, alert.since))
    return _calmed(memory, seen, now, calm=not exceeds(score, baseline))


def _calmed(memory: Memory, seen: Seen, now: datetime, *, calm: bool) -> Memory:
    """Armed again, once the calm has lasted."""
    since = (memory.turning_since or now) if calm else None
    if since is not None and now - since >= seen.persistence:
        return _turned(memory, State.ARMED, now)
    return memory.model_copy(update={"turning_since": since})


def _turned(memory: Memory, state: State, now: datetime, *, onset: Onset | None = None) -> Memory:
    return Memory(key=memory.key, learn_from=memory.learn_from, state=state, since=now, onset=onset)


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


def with_bar(baseline: FrozenBaseline, spec: DriftSpec, memory: Memory | None = None) -> FrozenBaseline:
    """The baseline with the bar that applies.

    That is the owner's in place of the learned one; and, for rules, a raised one while the drift that `memory` holds is
    acknowledged, so that the alert is silent until it grows.
    """
    own = next((float(each.psi) for each in spec.thresholds if each.signal == baseline.signal), None)
    bar = baseline.threshold if own is None else own
    enough = baseline.min_samples if own is None else min_samples(len(baseline.bins), own)
    if memory and memory.state is State.ACKNOWLEDGED and memory.onset:
        bar = max(bar, WORSE * memory.onset.debiased)
    return baseline.model_copy(update={"threshold": bar, "min_samples": enough})


@dataclass(frozen=True)
class Due:
    """Actions to take now, and when each was last taken if they are."""

    actions: tuple[ActionSpec, ...] = ()
    taken: Mapping[Action, datetime] = field(default_factory=dict)


def due(actions: Sequence[ActionSpec], done: Mapping[Action, datetime], now: datetime) -> Due:
    """The actions to take for a drift that begins now; `done` says when each type was last taken."""
    ready = tuple(
        each
        for each in actions
        if (last := done.get(each.type)) is None or now - last >= timedelta(seconds=each.cooldown_seconds)
    )
    return Due(ready, {**done, **{each.type: now for each in ready}})
