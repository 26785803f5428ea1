"""The chi-square distribution, enough of it for a significance floor, without a numerical library in the operator."""

from __future__ import annotations

from math import exp, inf, isclose, lgamma, log, sqrt

_TINY = 1e-300
_EPSILON = 1e-15


def probability(value: float, degrees: int) -> float:
    """P(X <= value) for X ~ chi-square with `degrees` >= 1 degrees of freedom."""
    return _lower_gamma(degrees / 2, value / 2)


def quantile(share: float, degrees: int) -> float:
    """The value that a chi-square variable stays below with probability `share`, to 10 digits.

    Newton's steps from the Wilson-Hilferty approximation, kept inside a bracket that every step narrows.

    Raises:
        ValueError: `share` is not inside (0, 1) or `degrees` is below 1.
    """
    if not 0 < share < 1 or degrees < 1:
        raise ValueError(f"no chi-square quantile for probability {share} and {degrees} degrees of freedom")
    low, high = 0.0, inf
    value = max(degrees * (1 - 2 / (9 * degrees) + _normal_quantile(share) * sqrt(2 / (9 * degrees))) ** 3, 1e-9)
    for _ in range(200):
        error = probability(value, degrees) - share
        low, high = (low, value) if error > 0 else (value, high)
        step = value - error / max(_density(value, degrees), _TINY)
        if not low < step < high:
            step = (low + high) / 2 if high < inf else 2 * value
        if isclose(step, value, rel_tol=1e-13):
            return step
        value = step
    return value


def _density(value: float, degrees: int) -> float:
    half = degrees / 2
    return exp((half - 1) * log(value) - value / 2 - half * log(2) - lgamma(half))


def _lower_gamma(a: float, x: float) -> float:
    """Regularised lower incomplete gamma function (Press et al., Numerical Recipes, 6.2: series and Lentz)."""
    if x <= 0:
        return 0.0
    front = exp(a * log(x) - x - lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = a
        while abs(term) > abs(total) * _EPSILON:
            n += 1
            term *= x / n
            total += term
        return total * front
    b = x + 1 - a
    c = 1 / _TINY
    d = fraction = 1 / b
    i = 0
    change = inf
    while abs(change - 1) > _EPSILON:
        i += 1
        an = -i * (i - a)
        b += 2
        d = 1 / (an * d + b or _TINY)
        c = b + an / c or _TINY
        change = d * c
        fraction *= change
        if i > 10_000:
            break
    return 1 - front * fraction


def _normal_quantile(share: float) -> float:
    """Standard normal quantile to 4.5e-4 (Abramowitz and Stegun 26.2.23): a start for Newton, not an answer."""
    tail = min(share, 1 - share)
    t = sqrt(-2 * log(tail))
    size = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    return size if share > 0.5 else -size
