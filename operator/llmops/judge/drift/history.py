"""What Prometheus remembers of a signal, as windows to learn from or to try thresholds on: the query and its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from llmops.api.drift import SERIES, WINDOW_SECONDS, BaselineSpec, FrozenBaseline, Signal, Window
from llmops.api.drift_state import Memory
from llmops.judge.drift.baseline import Categories, Distribution, Histogram
from llmops.judge.drift.replay import Stretch
from llmops.judge.drift.threshold import SMALLEST_SAMPLE, frozen

MAX_WINDOWS = 10_000  # Prometheus refuses a range of more than 11,000 points
LEAST_WINDOWS = 8  # fewer teach no spread, and so no bar


def query(signal: Signal, *, namespace: str, model: str, window: Window) -> str:
    """PromQL for what arrived in each bucket or category during the window that ends at a moment."""
    series = SERIES[signal]
    chosen = {"namespace": namespace, "model": model, **dict(series.where)}
    where = ",".join(f"{name}={json.dumps(value)}" for name, value in chosen.items())
    return f"sum by ({series.label}) (increase({series.metric}{{{where}}}[{window}]))"


def moments(start: datetime, end: datetime, window: Window) -> tuple[datetime, datetime, timedelta]:
    """First end, last end and step of whole windows between two times: the newest MAX_WINDOWS of them."""
    step = timedelta(seconds=WINDOW_SECONDS[window])
    whole = min((end - start) // step, MAX_WINDOWS)
    return end - max(whole - 1, 0) * step, end, step


def windows(signal: Signal, series: Sequence[Mapping[str, Any]], window: Window) -> list[Stretch]:
    """The windows in an answer to a range query, in order; what Prometheus never saw is missing."""
    kind, length = SERIES[signal], timedelta(seconds=WINDOW_SECONDS[window])
    by_moment: dict[float, dict[str, float]] = {}
    for each in series:
        for at, value in each["values"]:
            by_moment.setdefault(float(at), {})[each["metric"].get(kind.label, "")] = max(float(value), 0.0)
    ended = ((datetime.fromtimestamp(at, UTC), found) for at, found in sorted(by_moment.items()))
    return [Stretch(at - length, at, _from_cumulative(by) if kind.is_histogram else Categories(by)) for at, by in ended]


def _from_cumulative(by_edge: Mapping[str, float]) -> Distribution:
    """`le` in any spelling; both spellings of one edge are two runs of the same counter and are added up."""
    upto: dict[float, float] = {}
    for le, count in by_edge.items():
        upto[float(le)] = upto.get(float(le), 0.0) + count
    ordered = sorted(upto)
    values = [upto[edge] for edge in ordered]
    counts = tuple(max(b - a, 0.0) for a, b in pairwise([0.0, *values]))
    return Histogram(tuple(int(edge) for edge in ordered[:-1]), counts)


def learned(
    signal: Signal, found: Sequence[Stretch], memory: Memory, wanted: BaselineSpec, *, window: Window, signals: int
) -> FrozenBaseline | None:
    """The baseline, once the reference is long and large enough; None until then.

    Windows that were counted in other buckets than the newest one (an older gateway's) are left out.
    """
    recent = [each.counts for each in found if each.start >= memory.learn_from - timedelta(seconds=1)]
    counts = [each for each in recent if _edges(each) == _edges(recent[-1])]
    teaching = sum(each.total >= SMALLEST_SAMPLE for each in counts)
    if teaching < LEAST_WINDOWS or sum(each.total for each in counts) < wanted.min_samples:
        return None
    made = frozen(signal, counts, key=memory.key, signals=signals, at=found[-1].end)
    return made.model_copy(update={"window": window, "learned_from": memory.learn_from})


def _edges(counts: Distribution) -> tuple[int, ...]:
    return counts.edges if isinstance(counts, Histogram) else ()


def may_learn(memory: Memory, wanted: BaselineSpec, now: datetime) -> bool:
    """Whether the reference is old enough to be asked for."""
    return memory.learning and now >= memory.learn_from + timedelta(days=wanted.min_days)
