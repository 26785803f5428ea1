"""What Prometheus says about the signals that are watched: one query for a whole deployment, and its answer read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmops.api.drift import FrozenBaseline
from llmops.api.drift_state import Doubt
from llmops.judge.drift.lifecycle import Alert
from llmops.judge.drift.statistic import SMOOTHING, Score, score

_NAMES = "llmops:drift_(threshold|samples|share)|ALERTS|ALERTS_FOR_STATE"
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """What was seen of one signal: a score or a doubt, and the alert if it is over its bar."""

    score: Score | None = None
    doubt: Doubt | None = None
    alert: Alert | None = None


def query(*, namespace: str, model: str) -> str:
    """PromQL for everything recorded of one deployment that a verdict needs, its alerts included."""
    where = f"namespace={json.dumps(namespace)},model={json.dumps(model)}"
    return f'{{__name__=~"{_NAMES}",{where}}}'


def found(samples: Sequence[Sample], baseline: FrozenBaseline, *, identity: str) -> Found:
    """One signal's part of the answer.

    Args:
        samples: The answer: `metric` labels and a `value` of time and text each.
        baseline: What the signal is compared with.
        identity: The `baseline` label of its series.
    """
    own = [each for each in samples if each["metric"].get("baseline") == identity]
    if not _named(own, "llmops:drift_threshold"):
        return Found(doubt=Doubt.RULES_NOT_LOADED)
    n = sum(_value(each) for each in _named(own, "llmops:drift_samples"))
    missing = [each for each in _named(samples, "ALERTS") if each["metric"].get("alertname") == "LLMDriftSignalMissing"]
    if any(each["metric"].get("baseline", identity) == identity and _firing(each) for each in missing):
        return Found(doubt=Doubt.SIGNAL_MISSING)
    shares = {each["metric"]["bin"]: _value(each) for each in _named(own, "llmops:drift_share")}
    labels = [each.label for each in baseline.bins]
    if n < baseline.min_samples:
        return Found(doubt=Doubt.TOO_FEW_SAMPLES)
    if not all(label in shares for label in labels):
        return Found(doubt=Doubt.SIGNAL_MISSING)
    whole = n + SMOOTHING * len(labels)
    counts = [shares[label] * whole - SMOOTHING for label in labels]
    return Found(score(counts, [each.count for each in baseline.bins]), alert=_alert(own))


def _alert(own: Sequence[Sample]) -> Alert | None:
    """`ALERTS_FOR_STATE` holds since when; Prometheus keeps it over restarts."""
    about = [each for each in own if each["metric"].get("alertname") == "LLMTrafficDrift"]
    states = _named(about, "ALERTS")
    if not states:
        return None
    began = [_value(each) for each in _named(about, "ALERTS_FOR_STATE")]
    since = min(began, default=min(float(each["value"][0]) for each in states))
    return Alert(since=datetime.fromtimestamp(since, UTC), firing=any(map(_firing, states)))


def _named(samples: Sequence[Sample], name: str) -> list[Sample]:
    return [each for each in samples if each["metric"].get("__name__") == name]


def _firing(sample: Sample) -> bool:
    return bool(sample["metric"].get("alertstate") == "firing")


def _value(sample: Sample) -> float:
    return float(sample["value"][1])
