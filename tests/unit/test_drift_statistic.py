"""The numbers: against scipy and numpy, and what must hold for any counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]
from scipy.stats import chi2  # type: ignore[import-untyped]

from llmops.judge.drift import chi_square
from llmops.judge.drift.statistic import score, smoothed
from llmops.judge.drift.threshold import learned, min_samples, percentile, significance_floor


@pytest.mark.parametrize("share", [1e-6, 0.001, 0.05, 0.5, 0.95, 0.999, 1 - 0.001 / 3, 1 - 1e-6])
@pytest.mark.parametrize("degrees", [1, 2, 5, 13, 19, 60])
def test_chi_square_quantile_is_scipys(share: float, degrees: int) -> None:
    assert chi_square.quantile(share, degrees) == pytest.approx(chi2.ppf(share, degrees), rel=1e-10)


@pytest.mark.parametrize(("share", "degrees"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_no_quantile(share: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="no chi-square quantile"):
        chi_square.quantile(share, degrees)


@pytest.mark.parametrize(
    ("window", "reference"),
    [
        pytest.param([100, 200, 700], [1000, 2000, 7000], id="the same shares"),
        pytest.param([0, 500, 500], [3000, 3000, 4000], id="an empty bin"),
        pytest.param([0, 500, 500], [0, 3000, 4000], id="a bin that is empty on both sides"),
        pytest.param([1, 0, 0], [1, 1, 1], id="one request"),
        pytest.param([12.7, 83.4, 3.9], [5000.5, 2000.25, 800], id="fractions, as increase() yields"),
    ],
)
def test_scores_are_those_of_a_direct_computation(window: list[float], reference: list[float]) -> None:
    found = score(window, reference)
    assert found is not None
    q = (np.array(window) + 0.5) / (np.sum(window) + 0.5 * len(window))
    p = (np.array(reference) + 0.5) / (np.sum(reference) + 0.5 * len(reference))
    noise = 1 / np.sum(window) + 1 / np.sum(reference)
    psi = np.sum((q - p) * np.log(q / p))
    gaps = np.cumsum(window) / np.sum(window) - np.cumsum(reference) / np.sum(reference)
    assert found.psi == pytest.approx(psi, rel=1e-9)
    assert found.debiased == pytest.approx(psi - (len(window) - 1) * noise, rel=1e-9)
    assert found.chi_square == pytest.approx(psi / noise, rel=1e-9)
    assert found.jensen_shannon == pytest.approx(jensenshannon(p, q, base=2), abs=1e-9)
    assert found.kolmogorov_smirnov == pytest.approx(np.max(np.abs(gaps)), abs=1e-12)


def test_no_requests_have_no_score() -> None:
    assert score([0, -1e-12, 0], [1, 2, 3]) is None


@pytest.mark.parametrize(("window", "reference"), [([1, 2], [1, 2, 3]), ([1, 2], [0, 0])])
def test_what_cannot_be_compared(window: list[float], reference: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        score(window, reference)


COUNTS = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=2, max_size=20)


@given(window=COUNTS, data=st.data())
def test_any_counts_give_finite_scores(window: list[float], data: st.DataObject) -> None:
    reference = data.draw(st.lists(st.floats(0.5, 1e6), min_size=len(window), max_size=len(window)))
    found = score(window, reference)
    if found is None:
        assert sum(window) == 0
        return
    assert math.isfinite(found.psi)
    assert found.psi >= 0
    assert found.debiased <= found.psi
    assert 0 <= found.jensen_shannon <= 1
    assert 0 <= found.kolmogorov_smirnov <= 1 + 1e-9
    assert math.isclose(sum(smoothed(window)), 1)


@pytest.mark.parametrize(
    ("scores", "bar"),
    [
        pytest.param([], 0.1, id="nothing to learn from"),
        pytest.param([0.9], 0.1, id="one window has no spread"),
        pytest.param([0.01] * 50, 0.1, id="calm traffic keeps the floor"),
        pytest.param([0.2, 0.2, 0.2], 0.2, id="steady but far"),
        pytest.param([0.0] * 99 + [2.0], 1.01, id="one outlier in a hundred: the percentile"),
    ],
)
def test_learned_threshold(scores: list[float], bar: float) -> None:
    assert learned(scores) == pytest.approx(bar, abs=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.floats(0, 1))
def test_percentile_is_numpys(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(np.quantile(values, share), abs=1e-9)


@pytest.mark.parametrize(
    ("bins", "threshold", "wanted"), [(2, 0.5, 200), (14, 0.1, 346), (20, 0.1, 439), (14, 0.3, 200)]
)
def test_smallest_sample(bins: int, threshold: float, wanted: int) -> None:
    assert min_samples(bins, threshold) == wanted


def test_signals_share_the_false_alarms() -> None:
    assert significance_floor(10, signals=3) == pytest.approx(chi2.ppf(1 - 0.001 / 3, 9), rel=1e-10)
