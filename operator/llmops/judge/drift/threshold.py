"""How large a score must be: learned from the reference's own windows, because real requests are not independent.

On the Azure 2023 conversation trace chi-square per degree of freedom is 10 to 39 where independence would make it 1:
a p-value alone alarms on ordinary traffic. So a score must pass three bars, and each has its own reason: the learned
threshold (size), the chi-square floor (more than sampling), the minimum sample (enough to say anything).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import ceil
from statistics import fmean, stdev

from llmops.api.drift import BaselineBin, FrozenBaseline, Signal
from llmops.judge.drift import chi_square
from llmops.judge.drift.baseline import Distribution, binned, merged_bins, total
from llmops.judge.drift.statistic import Score, score

SMALLEST_THRESHOLD = 0.1
SMALLEST_SAMPLE = 200
FALSE_ALARM_SHARE = 0.001  # of windows without drift, over all signals of a deployment


def learned(scores: Sequence[float]) -> float:
    """The bar for debiased PSI: max(0.1, mean + 3 standard deviations, 99.5th percentile) of the reference's windows.

    With fewer than two windows nothing is known about their spread, and the bar is the smallest one.
    """
    if len(scores) < 2:
        return SMALLEST_THRESHOLD
    return max(SMALLEST_THRESHOLD, fmean(scores) + 3 * stdev(scores), percentile(scores, 0.995))


def percentile(values: Sequence[float], share: float) -> float:
    """The `share` quantile, linear between neighbours (as numpy's default)."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def significance_floor(bins: int, *, signals: int) -> float:
    """The chi-square value that sampling alone passes in one of 1000 windows, shared among the signals."""
    return chi_square.quantile(1 - FALSE_ALARM_SHARE / signals, bins - 1)


def min_samples(bins: int, threshold: float) -> int:
    """Requests a window needs before a score of `threshold` can be told from sampling: max(200, chi²(0.999) / t)."""
    return max(SMALLEST_SAMPLE, ceil(chi_square.quantile(1 - FALSE_ALARM_SHARE, bins - 1) / threshold))


def frozen(signal: Signal, windows: Sequence[Distribution], *, key: str, signals: int, at: datetime) -> FrozenBaseline:
    """The baseline that these windows of reference traffic make.

    Each window is scored against the others only: compared with a whole that contains it, it looks closer to normal
    than the next one will. Windows below the smallest sample count towards the bins and teach no threshold.

    Args:
        signal: What was measured.
        windows: The reference, cut as live traffic will be; all with the same buckets, not all empty.
        key: What the baseline is valid for.
        signals: How many signals of the deployment share the false alarms.
        at: The time to write down.

    Raises:
        ValueError: There is no request in the windows.
    """
    whole = total(windows)
    bins = merged_bins(whole)
    scores = [each.debiased for window in windows if (each := _against_others(window, whole, bins)) is not None]
    threshold = learned(scores)
    return FrozenBaseline(
        key=key,
        signal=signal,
        frozen_at=at,
        bins=bins,
        threshold=threshold,
        chi_square_critical=significance_floor(len(bins), signals=signals),
        min_samples=min_samples(len(bins), threshold),
        windows=len(scores),
    )


def exceeds(found: Score, baseline: FrozenBaseline) -> bool:
    """Whether a score passes all three bars: size, significance, sample."""
    return (
        found.debiased > baseline.threshold
        and found.chi_square > baseline.chi_square_critical
        and found.samples >= baseline.min_samples
    )


def against(window: Distribution, baseline: FrozenBaseline) -> Score | None:
    """The window's score against a frozen baseline; None when the window is empty.

    Raises:
        BucketsChangedError: The window was counted in other buckets.
    """
    return score(binned(window, baseline.bins), [each.count for each in baseline.bins])


def _against_others(window: Distribution, whole: Distribution, bins: Sequence[BaselineBin]) -> Score | None:
    inside, everything = binned(window, bins), binned(whole, bins)
    others = [max(a - b, 0.0) for a, b in zip(everything, inside, strict=True)]
    if sum(inside) < SMALLEST_SAMPLE or sum(others) <= 0:
        return None
    return score(inside, others)
