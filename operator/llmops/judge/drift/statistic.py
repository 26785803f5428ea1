"""How far one distribution of requests lies from another: PSI without its sampling bias, and its companions.

The generated Prometheus rules compute the same numbers; tests hold the two together to six digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log, sqrt

SMOOTHING = 0.5  # Jeffreys: an empty bin would make PSI infinite, and one empty on both sides undefined


@dataclass(frozen=True, kw_only=True)
class Score:
    """A window against a baseline.

    Attributes:
        samples: Requests in the window, > 0.
        psi: Population stability index of the smoothed shares, nats.
        debiased: `psi` less what sampling alone adds on average; may be negative.
        chi_square: `psi` in units that follow chi-square with K - 1 degrees of freedom when nothing changed and
            requests are independent.
        jensen_shannon: Distance in 0..1 (base 2).
        kolmogorov_smirnov: Largest gap between the cumulative shares at bin edges, 0..1; bins must be ordered.
        terms: Each bin's part of `psi`, in the bins' order.
    """

    samples: float
    psi: float
    debiased: float
    chi_square: float
    jensen_shannon: float
    kolmogorov_smirnov: float
    terms: tuple[float, ...]


def score(window: Sequence[float], reference: Sequence[float]) -> Score | None:
    """Compare counts per bin; None when the window holds no request: nobody knows, which is not "no drift".

    PSI: Lewis, An Introduction to Credit Scoring (1994). Its expectation (K - 1)(1/N + 1/M) under no change, and its
    chi-square limit: Yurdakul and Naranjo, Statistical properties of the population stability index (2020).

    Args:
        window: Counts per bin of the traffic in question; tiny negatives, as extrapolation leaves them, count as 0.
        reference: Counts per bin of the baseline, as many.

    Raises:
        ValueError: The two have different numbers of bins, or the reference is empty.
    """
    counts = [max(count, 0.0) for count in window]
    n, m, bins = sum(counts), sum(reference), len(counts)
    if bins != len(reference) or m <= 0:
        raise ValueError(f"cannot compare {bins} bins with a reference of {len(reference)} bins and {m} samples")
    if n <= 0:
        return None
    q, p = smoothed(counts), smoothed(reference)
    terms = tuple((b - a) * log(b / a) for a, b in zip(p, q, strict=True))
    psi, noise = sum(terms), 1 / n + 1 / m
    return Score(
        samples=n,
        psi=psi,
        debiased=psi - (bins - 1) * noise,
        chi_square=psi / noise,
        jensen_shannon=_jensen_shannon(p, q),
        kolmogorov_smirnov=_kolmogorov_smirnov(counts, reference),
        terms=terms,
    )


def smoothed(counts: Sequence[float]) -> tuple[float, ...]:
    """Shares that are never zero and sum to one: (c + 0.5) / (N + 0.5 K)."""
    whole = sum(counts) + SMOOTHING * len(counts)
    return tuple((count + SMOOTHING) / whole for count in counts)


def _jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float:
    halves = (a * log(2 * a / (a + b)) + b * log(2 * b / (a + b)) for a, b in zip(p, q, strict=True))
    return sqrt(max(sum(halves), 0.0) / (2 * log(2)))


def _kolmogorov_smirnov(counts: Sequence[float], reference: Sequence[float]) -> float:
    n, m = sum(counts), sum(reference)
    return max(abs(a / n - b / m) for a, b in zip(accumulate(counts), accumulate(reference), strict=True))
