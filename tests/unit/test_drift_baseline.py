"""Bins: enough of the reference in each, all traffic in some, and a loud failure when buckets changed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops import names
from llmops.judge.drift.baseline import (
    BucketsChangedError,
    Categories,
    Distribution,
    Histogram,
    binned,
    counted,
    merged_bins,
    total,
)
from llmops.judge.drift.threshold import against, exceeds, frozen

AT = datetime(2026, 11, 20, tzinfo=UTC)
EDGES = (10, 20, 40, 80)


@pytest.mark.parametrize(
    ("counts", "labels"),
    [
        pytest.param((20, 20, 20, 20, 20), ["0-10", "10-20", "20-40", "40-80", "80-+Inf"], id="every bucket is enough"),
        pytest.param((1, 1, 38, 30, 30), ["0-40", "40-80", "80-+Inf"], id="small ones join the next"),
        pytest.param((40, 30, 26, 3, 1), ["0-10", "10-20", "20-+Inf"], id="a small rest joins the last"),
        pytest.param((0, 0, 100, 0, 0), ["0-20", "20-40", "40-+Inf"], id="constant traffic keeps room on both sides"),
        pytest.param((100, 0, 0, 0, 0), ["0-10", "10-+Inf"], id="constant traffic in the lowest bucket"),
        pytest.param((0, 0, 0, 0, 100), ["0-80", "80-+Inf"], id="constant traffic above every edge"),
    ],
)
def test_merged_bins(counts: tuple[float, ...], labels: list[str]) -> None:
    assert [each.label for each in merged_bins(Histogram(EDGES, counts))] == labels


@pytest.mark.parametrize(
    ("counts", "bins"),
    [
        pytest.param(
            {"stop": 90, "length": 9, "tool_calls": 1}, [("length", 9), ("stop", 90), ("(other)", 1)], id="rare"
        ),
        pytest.param({"stop": 100}, [("stop", 100), ("(other)", 0)], id="only one: the unseen still has a bin"),
    ],
)
def test_merged_categories(counts: dict[str, float], bins: list[tuple[str, float]]) -> None:
    assert [(each.label, each.count) for each in merged_bins(Categories(counts))] == bins


@given(st.lists(st.integers(0, 2_000_000), min_size=1, max_size=300), st.lists(st.integers(0, 2_000_000), max_size=50))
def test_every_request_falls_into_one_bin(reference: list[int], window: list[int]) -> None:
    bins = merged_bins(counted(reference, names.TOKEN_BUCKETS))
    found = binned(counted(window, names.TOKEN_BUCKETS), bins)
    assert 2 <= len(bins) <= 20
    assert sum(found) == len(window)
    assert found == tuple(
        sum(1 for value in window if (each.lower or -1) < value <= (each.upper or 10**9)) for each in bins
    )


def test_an_unknown_category_is_counted_as_other() -> None:
    bins = merged_bins(Categories({"stop": 90, "length": 10}))
    assert binned(Categories({"stop": 5, "content_filter": 3}), bins) == (0, 5, 3)


def test_bucket_edges_are_inclusive_as_prometheus_counts() -> None:
    assert counted([10, 11, 80, 81], EDGES).counts == (1, 1, 0, 1, 1)


@pytest.mark.parametrize(
    "windows",
    [
        pytest.param([Histogram(EDGES, (1,) * 5), Histogram((10, 20, 40, 90), (1,) * 5)], id="within the reference"),
        pytest.param([Histogram(EDGES, (1,) * 5), Categories({"stop": 1})], id="mixed kinds"),
    ],
)
def test_changed_buckets_are_refused(windows: list[Distribution]) -> None:
    with pytest.raises((BucketsChangedError, AttributeError)):
        total(windows)


def test_a_window_with_other_buckets_is_refused() -> None:
    baseline = frozen("PromptTokens", [Histogram(EDGES, (200,) * 5)], key="k", signals=1, at=AT)
    with pytest.raises(BucketsChangedError, match="no bucket that ends at 10 tokens"):
        against(Histogram((1, 2, 5), (1, 1, 1, 1)), baseline)


@pytest.mark.parametrize("windows", [[], [Histogram(EDGES, (0,) * 5)]], ids=["no window", "no request"])
def test_nothing_to_learn_from(windows: list[Distribution]) -> None:
    with pytest.raises(ValueError, match="cannot be learned"):
        frozen("PromptTokens", windows, key="k", signals=1, at=AT)


def test_restless_traffic_teaches_a_higher_bar() -> None:
    calm = [Histogram(EDGES, (100,) * 5)] * 20
    restless = [Histogram(EDGES, (100 + 60 * (i % 2), 100, 100, 100, 160 - 60 * (i % 2))) for i in range(20)]
    bars = [frozen("PromptTokens", windows, key="k", signals=1, at=AT).threshold for windows in (calm, restless)]
    assert bars[0] == 0.1 <= bars[1]


def test_small_windows_count_but_teach_no_threshold() -> None:
    made = frozen(
        "PromptTokens", [Histogram(EDGES, (100,) * 5)] * 3 + [Histogram(EDGES, (7,) * 5)] * 9, key="k", signals=1, at=AT
    )
    assert (made.windows, made.samples) == (3, 3 * 500 + 9 * 35)


@pytest.mark.parametrize(
    ("counts", "alarm"),
    [
        pytest.param((100, 100, 100, 100, 100), False, id="as ever"),
        pytest.param((10, 10, 100, 100, 280), True, id="changed"),
        pytest.param((2, 2, 20, 20, 56), False, id="changed, but too few to tell"),
        pytest.param((90, 100, 100, 100, 110), False, id="a little"),
    ],
)
def test_an_alarm_needs_size_significance_and_sample(counts: tuple[float, ...], *, alarm: bool) -> None:
    baseline = frozen("PromptTokens", [Histogram(EDGES, (100,) * 5)] * 20, key="k", signals=1, at=AT)
    found = against(Histogram(EDGES, counts), baseline)
    assert found is not None
    assert exceeds(found, baseline) is alarm


def test_a_frozen_baseline_survives_its_own_json() -> None:
    baseline = frozen("PromptTokens", [Histogram(EDGES, (100,) * 5)] * 20, key="k", signals=1, at=AT)
    assert type(baseline).model_validate_json(baseline.model_dump_json(by_alias=True)) == baseline
