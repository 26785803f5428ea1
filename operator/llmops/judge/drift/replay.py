"""Backtesting: learn from the first part of a recorded history, judge the rest as live traffic would be judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from llmops.api.drift import FrozenBaseline, Signal
from llmops.judge.drift.baseline import Distribution
from llmops.judge.drift.statistic import Score
from llmops.judge.drift.threshold import SMALLEST_SAMPLE, against, exceeds, frozen


@dataclass(frozen=True)
class Stretch:
    """What arrived from `start` until `end`."""

    start: datetime
    end: datetime
    counts: Distribution


@dataclass(frozen=True)
class Judged:
    """One window's verdict; `score` None: no request. `over`: it passes all three bars."""

    window: Stretch
    score: Score | None
    over: bool


@dataclass(frozen=True)
class Replay:
    """What would have happened."""

    baseline: FrozenBaseline
    judged: tuple[Judged, ...]

    @property
    def alarms(self) -> tuple[Judged, ...]:
        """The windows over the bar."""
        return tuple(each for each in self.judged if each.over)


def replay(signal: Signal, history: Sequence[Stretch], *, learn: int, signals: int) -> Replay:
    """Freeze a baseline from the first `learn` windows and judge the others against it.

    Raises:
        ValueError: The history leaves nothing to learn from, or nothing to judge.
        BucketsChangedError: The history was not recorded with one set of buckets.
    """
    taught = history[:learn]
    if sum(each.counts.total >= SMALLEST_SAMPLE for each in taught) < 2 or learn >= len(history):
        raise ValueError(
            f"{signal}: {len(history)} windows, {learn} of them to learn from: at least two of these need "
            f"{SMALLEST_SAMPLE} requests each, and one more window must be left to judge"
        )
    baseline = frozen(signal, [each.counts for each in taught], key="replay", signals=signals, at=taught[-1].end)
    scored = [(each, against(each.counts, baseline)) for each in history[learn:]]
    judged = (Judged(window, score, score is not None and exceeds(score, baseline)) for window, score in scored)
    return Replay(baseline, tuple(judged))
