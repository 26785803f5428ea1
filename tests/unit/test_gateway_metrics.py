"""One text out of several processes' metrics."""

from __future__ import annotations

from llmops_serving.gateway.metrics import summed

HEAD = "# TYPE llmops_gateway_requests_total counter\n"


def test_a_count_above_a_million_loses_no_request() -> None:
    one, other = (f'{HEAD}llmops_gateway_requests_total{{code="200"}} {count}\n' for count in (12_345_678, 1))
    assert summed([one, other]) == f'{HEAD}llmops_gateway_requests_total{{code="200"}} 12345679\n'


def test_a_sample_of_one_process_is_kept() -> None:
    one = f'{HEAD}llmops_gateway_requests_total{{code="200"}} 2\n'
    other = f'{HEAD}llmops_gateway_requests_total{{code="503"}} 1\n'
    assert summed([one, other]) == one + 'llmops_gateway_requests_total{code="503"} 1\n'
