"""One look at a deployment's drift: what was remembered and what Prometheus says, to what to remember and to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from llmops.api.conditions import Reason
from llmops.api.drift import ActionSpec, DriftSpec, FrozenBaseline, Signal, Watched, moment
from llmops.api.drift_state import Doubt, Memories, Memory, Remembered, Served, State
from llmops.judge.drift import evidence as reading
from llmops.judge.drift import history, lifecycle
from llmops.judge.drift.condition import condition
from llmops.judge.drift.evidence import Found, Sample
from llmops.judge.drift.replay import Stretch
from llmops.judge.verdict import Verdict


@dataclass(frozen=True)
class Evidence:
    """What Prometheus said last. `silent`: it did not answer. `windows`: history of the signals that learn."""

    silent: bool = False
    samples: tuple[Sample, ...] = ()
    windows: Mapping[Signal, tuple[Stretch, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The deployment as far as drift is concerned.

    `keys`: what baselines must be valid for, made of `served`; empty while nobody knows which bytes are served.
    `inhibited`: why no verdict can be given now. `acknowledged`, `rebased`: the annotations' texts.
    """

    watched: Watched
    spec: DriftSpec
    keys: Mapping[Signal, str]
    served: Served | None = None
    inhibited: Doubt | None = None
    acknowledged: str = ""
    rebased: str = ""


@dataclass(frozen=True)
class Look:
    """What follows. `due`: actions to take before this is remembered, for a drift that began at `onset`."""

    remembered: Remembered
    verdict: Verdict
    due: tuple[ActionSpec, ...] = ()
    onset: datetime | None = None


def look(subject: Subject, before: Remembered, evidence: Evidence | None, now: datetime) -> Look:
    """Judge every signal; `evidence` None: nobody has asked Prometheus yet, which changes no state."""
    now = now.replace(microsecond=0)
    if not subject.keys:
        waiting = Verdict("Unknown", Reason.ROLLING_OUT, "Which model is served is not known yet.")
        return Look(before, waiting)
    judged = {signal: _judge(signal, subject, before, evidence, now) for signal in subject.spec.watches}
    memories = {signal: memory for signal, (memory, _) in judged.items()}
    began = [
        memory.onset.since
        for signal, memory in memories.items()
        if memory.state is State.DRIFTING and memory.onset and _onset(before, signal) != memory.onset.since
    ]
    actions = lifecycle.due(subject.spec.actions if began else (), before.memories.actions, now)
    after = Remembered(
        baselines=tuple(baseline for _, baseline in judged.values() if baseline),
        memories=Memories(served=subject.served, signals=memories, actions=dict(actions.taken)),
    )
    verdict = condition(memories, subject.spec, name=subject.watched.model)
    return Look(after, verdict, actions.actions, min(began, default=None))


def _judge(
    signal: Signal, subject: Subject, before: Remembered, evidence: Evidence | None, now: datetime
) -> tuple[Memory, FrozenBaseline | None]:
    """The signal's memory and its baseline, as long as that is valid."""
    spec, memory, baseline = subject.spec, before.memories.signals.get(signal), before.baseline(signal)
    if memory and memory.learning and evidence and history.may_learn(memory, spec.baseline, now):
        found, of = evidence.windows.get(signal, ()), len(spec.watches)
        baseline = history.learned(signal, found, memory, spec.baseline, window=spec.window, signals=of)
    about = _found(subject, memory, baseline, evidence)
    seen = lifecycle.Seen(
        key=subject.keys[signal],
        window=spec.window,
        persistence=timedelta(seconds=spec.persistence_seconds),
        learn_from=moment(spec.baseline.since) if spec.baseline.since else None,
        baseline=lifecycle.with_bar(baseline, spec) if baseline else None,
        score=about.score,
        alert=about.alert,
        doubt=about.doubt,
        acknowledged=moment(subject.acknowledged),
        rebased=moment(subject.rebased),
    )
    after = lifecycle.step(memory, seen, now)
    return after, None if after.learning else baseline


def _found(
    subject: Subject, memory: Memory | None, baseline: FrozenBaseline | None, evidence: Evidence | None
) -> Found:
    if evidence is None:
        return Found()
    if evidence.silent:
        return Found(doubt=Doubt.NO_PROMETHEUS)
    if memory is None or memory.learning or baseline is None:
        return Found()
    bar = lifecycle.with_bar(baseline, subject.spec)
    found = reading.found(evidence.samples, bar, identity=subject.watched.identity(baseline))
    if found.doubt in (Doubt.RULES_NOT_LOADED, Doubt.SIGNAL_MISSING) or subject.inhibited is None:
        return found
    return Found(doubt=subject.inhibited)


def _onset(before: Remembered, signal: Signal) -> datetime | None:
    memory = before.memories.signals.get(signal)
    return memory.onset.since if memory and memory.onset else None
