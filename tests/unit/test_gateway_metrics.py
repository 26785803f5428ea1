"""What is counted, and one text out of several processes' metrics."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llmops import names
from llmops_serving.gateway.metrics import DURATION_BUCKETS, Histogram, Metrics, Series, summed
from llmops_serving.gateway.usage import Usage, usage

LABELS = ("namespace", "model", "adapter", "tenant")
HEAD = "# TYPE llmops_gateway_requests_total counter\n"


def test_a_count_above_a_million_loses_no_request() -> None:
    one, other = (f'{HEAD}llmops_gateway_requests_total{{code="200"}} {count}\n' for count in (12_345_678, 1))
    assert summed([one, other]) == f'{HEAD}llmops_gateway_requests_total{{code="200"}} 12345679\n'


@pytest.mark.parametrize("bounds", [DURATION_BUCKETS, names.TOKEN_BUCKETS, names.LIMIT_BUCKETS])
@given(data=st.data())
def test_a_value_is_counted_at_the_lowest_bound_that_is_not_below_it(
    bounds: tuple[float, ...], data: st.DataObject
) -> None:
    value = data.draw(st.sampled_from(bounds) | st.floats(0, 2 * bounds[-1]))
    histogram = Histogram(bounds)
    histogram.observe(value)
    assert histogram.counts == [
        int(lower < value <= upper) for lower, upper in zip((-1.0, *bounds), (*bounds, float("inf")), strict=True)
    ]


def test_a_sample_of_one_process_is_kept() -> None:
    one = f'{HEAD}llmops_gateway_requests_total{{code="200"}} 2\n'
    other = f'{HEAD}llmops_gateway_requests_total{{code="503"}} 1\n'
    assert summed([one, other]) == one + 'llmops_gateway_requests_total{code="503"} 1\n'


TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "weather"}}]
ASKED: list[tuple[dict[str, Any], int | None, bool]] = [
    ({}, None, False),
    ({"max_tokens": 300}, 512, False),
    ({"max_completion_tokens": 16, "max_tokens": 4096}, 16, False),
    ({"max_tokens": "many", "tools": TOOLS}, None, True),
    ({"max_tokens": 10_000_000}, None, False),
]


@pytest.mark.parametrize(("document", "bucket", "tools"), ASKED)
def test_what_a_request_allows(document: dict[str, Any], bucket: int | None, tools: bool) -> None:  # noqa: FBT001
    series = Series()
    assert series.asked(document) is tools
    bounds = [*series.max_tokens.bounds, None]
    assert [bound for bound, count in zip(bounds, series.max_tokens.counts, strict=True) if count] == [bucket]


@pytest.mark.parametrize(
    ("reason", "offered", "use"),
    [
        ("stop", False, "none"),
        ("stop", True, "offered"),
        ("tool_calls", True, "called"),
    ],
)
def test_what_became_of_tools(reason: str, offered: bool, use: str) -> None:  # noqa: FBT001
    series = Series()
    series.answered(Usage(7, 3, reason), tools=offered)
    assert series.tools == {use: 1}


CACHED = [(0, "none"), (1, "quarter"), (25, "quarter"), (26, "half"), (75, "most"), (99, "all"), (100, "all")]


@pytest.mark.parametrize(("cached", "share"), CACHED)
def test_how_much_of_a_prompt_was_cached(cached: int, share: str) -> None:
    """vLLM's usage, with --enable-prompt-tokens-details."""
    details = b'"usage":{"prompt_tokens":100,"total_tokens":103,"completion_tokens":3,'
    details += b'"prompt_tokens_details":{"audio_tokens":null,"cached_tokens":%d}}' % cached
    series = Series()
    series.answered(usage(b'"finish_reason":"stop"}],' + details, None, complete=True), tools=False)
    assert series.prefix_hits == {share: 1}
    page = Metrics()
    page.series["team-a", "support", "", "", "chat"] = series
    labels = 'namespace="team-a",model="support",adapter="",tenant="",gen_ai_operation_name="chat"'
    assert f'llmops_gateway_prefix_hit_total{{{labels},share="{share}"}} 1\n' in page.text([])


def test_what_the_conventions_name_has_their_names_and_required_attributes() -> None:
    """https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/, as Prometheus' exporters spell them."""
    page = Metrics()
    page.of(("team-a", "support", "", "", "chat")).completion_tokens.observe(3)
    page.of(("team-a", "support", "tickets", "acme", "embeddings")).prompt_tokens.observe(12)
    families = {family.name: family for family in text_string_to_metric_families(page.text([]))}
    wanted = {"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"}
    for name in (
        "gen_ai_server_request_duration_seconds",
        "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_client_operation_time_per_output_chunk_seconds",
        "gen_ai_client_token_usage",
    ):
        family = families[name]
        assert family.type == "histogram"
        assert all(sample.labels.keys() >= wanted | set(LABELS) for sample in family.samples)
    sums = {
        tuple(sample.labels[label] for label in ("gen_ai_request_model", "gen_ai_operation_name", "gen_ai_token_type")):
        sample.value
        for sample in families["gen_ai_client_token_usage"].samples
        if sample.name.endswith("_sum")
    }  # fmt: skip
    assert sums == {
        ("support", "chat", "input"): 0,
        ("support", "chat", "output"): 3,
        ("tickets", "embeddings", "input"): 12,
        ("tickets", "embeddings", "output"): 0,
    }


def test_an_engine_that_says_nothing_of_its_cache_is_not_counted() -> None:
    silent = b'"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":null}'
    series = Series()
    series.answered(usage(silent, None, complete=True), tools=False)
    assert series.prefix_hits == {}
