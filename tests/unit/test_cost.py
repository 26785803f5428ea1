"""An example that was checked by hand, and what is said when two figures of one calculation disagree."""

from __future__ import annotations

from decimal import Decimal

from llmops.judge.cost import Requests


def requests(per_hour: int) -> Requests:
    return Requests(Decimal(per_hour), Decimal(3), Decimal("0.0373"), Decimal("0.0001"))


def test_a_hundred_requests_an_hour() -> None:
    load = requests(100)
    assert load.cost_per_hour == Decimal("11.20")
    assert load.cost(days=250, hours_per_day=12) == Decimal("33600.00")


def test_ten_times_the_requests_cost_ten_times_as_much_and_a_wrong_rate_is_told() -> None:
    assert requests(1000).cost_per_hour == 10 * requests(100).cost_per_hour
    said = requests(1000).disagreement(Decimal("11.20"))
    assert said == "1000 requests per hour cost 112.00 per hour and not 11.20, which would be 100 requests per hour."
    assert requests(100).disagreement(Decimal("11.20")) == ""
