"""Freezing a baseline: merging buckets into bins that each hold enough of the reference, and counting into them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from llmops.api.drift import OTHER, BaselineBin

MIN_SHARE = 0.05  # a bin with less is mostly sampling noise, and contributes it to PSI


class BucketsChangedError(ValueError):
    """The histogram lacks an edge of the baseline: it was recorded with other buckets and cannot be compared."""


@dataclass(frozen=True)
class Histogram:
    """Requests per bucket: `counts[i]` lie in (edges[i-1], edges[i]], the last one above every edge."""

    edges: tuple[int, ...]
    counts: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges make {len(self.edges) + 1} buckets, not {len(self.counts)}")

    @property
    def total(self) -> float:
        """Requests in all buckets."""
        return sum(self.counts)


@dataclass(frozen=True)
class Categories:
    """Requests per category, such as finish reason."""

    counts: Mapping[str, float]

    @property
    def total(self) -> float:
        """Requests in all categories."""
        return sum(self.counts.values())


Distribution = Histogram | Categories


def merged_bins(reference: Distribution) -> tuple[BaselineBin, ...]:
    """The bins of a reference: at most 20, ascending, together covering everything that may come.

    Neighbouring buckets are merged until each bin holds MIN_SHARE of the reference. Where that leaves fewer than three
    bins (a constant prompt, one output token), the fullest bucket gets a bin of its own between everything below and
    above it: without, a change of constant traffic could not be seen at all. Categories with less than MIN_SHARE,
    and those never seen, share one bin.

    Raises:
        ValueError: The reference is empty.
    """
    if reference.total <= 0:
        raise ValueError("a baseline cannot be learned from no requests")
    return _ranges(reference) if isinstance(reference, Histogram) else _named(reference)


def total(windows: Sequence[Distribution]) -> Distribution:
    """All windows together.

    Raises:
        BucketsChangedError: They were not all counted in the same buckets.
        ValueError: There are none.
    """
    first = windows[0] if windows else None
    if isinstance(first, Histogram):
        same = [each.counts for each in windows if isinstance(each, Histogram) and each.edges == first.edges]
        if len(same) < len(windows):
            raise BucketsChangedError("the buckets changed within the reference")
        return Histogram(first.edges, tuple(map(sum, zip(*same, strict=True))))
    if isinstance(first, Categories):
        summed = Counter[str]()
        for each in windows:
            if isinstance(each, Categories):
                summed.update(each.counts)
        return Categories(dict(sorted(summed.items())))
    raise ValueError("a baseline cannot be learned from no windows")


def counted(values: Iterable[int], edges: tuple[int, ...]) -> Histogram:
    """The histogram a gateway would have recorded for these values."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_left(edges, value)] += 1
    return Histogram(edges, tuple(counts))


def binned(distribution: Distribution, bins: Iterable[BaselineBin]) -> tuple[float, ...]:
    """Requests per bin of a baseline.

    Raises:
        BucketsChangedError: An edge of the baseline does not exist in the histogram.
    """
    if isinstance(distribution, Categories):
        labels = [each.label for each in bins]
        known = {label: distribution.counts.get(label, 0.0) for label in labels if label != OTHER}
        return tuple(known.get(label, distribution.total - sum(known.values())) for label in labels)
    upto = dict(zip((*distribution.edges, None), accumulate(distribution.counts), strict=True)) | {0: 0.0}
    try:
        return tuple(upto[each.upper] - upto[each.lower or 0] for each in bins)
    except KeyError as missing:
        raise BucketsChangedError(f"the histogram has no bucket that ends at {missing} tokens") from missing


def _ranges(reference: Histogram) -> tuple[BaselineBin, ...]:
    needed, inside, edges = MIN_SHARE * reference.total, 0.0, list[int]()
    for edge, count in zip(reference.edges, reference.counts, strict=False):
        inside += count
        if inside >= needed:
            edges.append(edge)
            inside = 0.0
    if inside + reference.counts[-1] < needed and edges:
        edges.pop()  # what is left above the last edge is too little for a bin: it joins its neighbour
    if len(edges) < 2:
        fullest = max(range(len(reference.counts)), key=reference.counts.__getitem__)
        around = reference.edges[max(fullest - 1, 0) : fullest + 1]
        edges = sorted({*edges, *around})
    cuts = [(low or None, high) for low, high in pairwise([0, *edges])] + [(edges[-1], None)]
    empty = [
        BaselineBin(label=f"{low or 0}-{high or '+Inf'}", count=0, lower=low or 0, upper=high) for low, high in cuts
    ]
    return tuple(
        each.model_copy(update={"count": count}) for each, count in zip(empty, binned(reference, empty), strict=True)
    )


def _named(reference: Categories) -> tuple[BaselineBin, ...]:
    needed = MIN_SHARE * reference.total
    kept = {key: count for key, count in sorted(reference.counts.items()) if count >= needed and key != OTHER}
    named = [BaselineBin(label=key, count=count) for key, count in kept.items()]
    return (*named, BaselineBin(label=OTHER, count=reference.total - sum(kept.values())))
