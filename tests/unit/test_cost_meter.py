"""Accelerator time: what is paid for is loading, idle or busy, and what sleeps is saved."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from llmops.judge.cost import Meter, State, Use, per_hour
from llmops.shell.costs import Costs
from llmops.shell.mirror import Key

KEY = Key("LLMDeployment", "team-a", "support")


def use(pods: int, ready: int, in_flight: int | None = 0, *, accelerators: int = 1, asleep: bool = False) -> Use:
    return Use(pods=pods, ready=ready, in_flight=in_flight, accelerators=accelerators, asleep=asleep)


def test_an_hour_of_two_pods_of_two_accelerators() -> None:
    assert per_hour(2, 2, Decimal("1.20")) == Decimal("4.80")


def test_time_is_loading_then_idle_then_busy_then_saved() -> None:
    meter = Meter()
    meter.see(0, use(2, 0))
    meter.see(30, use(2, 2, None))
    meter.see(40, use(2, 2, 1))
    meter.see(70, use(2, 2, 9))
    meter.see(100, use(0, 0, asleep=True))
    meter.advance(160)
    assert meter.seconds == {State.LOADING: 60, State.IDLE: 20 + 30, State.BUSY: 30 + 60}
    assert meter.saved_seconds == 60


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 8), st.integers(0, 8), st.none() | st.integers(0, 20)), max_size=20
    )
)
def test_every_pod_second_is_in_exactly_one_state(looks: list[tuple[int, int, int, int | None]]) -> None:
    meter, now, paid, last = Meter(), 0.0, 0.0, 0
    for wait, pods, ready, in_flight in looks:
        paid += wait * last
        now += wait
        meter.see(now, use(pods, min(pods, ready), in_flight))
        last = pods
    assert sum(meter.seconds.values()) == paid


def test_the_series_move_with_the_clock_and_end_with_the_object() -> None:
    now = 0.0
    costs = Costs(lambda: now)
    registry = CollectorRegistry()
    registry.register(costs)

    def value(name: str, **labels: str) -> float | None:
        labels = {"namespace": "team-a", "deployment": "support", "profile": "nvidia", **labels}
        return registry.get_sample_value(name, labels)

    costs.see(KEY, profile="nvidia", price_per_hour="3.60", use=use(1, 1, accelerators=2))
    now = 10
    assert value("llmops_accelerator_seconds_total", state="idle") == 20
    assert value("llmops_cost_total") == 20 * 0.001
    assert value("llmops_cost_per_hour") == 7.2
    costs.busy(KEY, 3)
    now = 15
    assert value("llmops_accelerator_seconds_total", state="busy") == 10
    costs.forget(KEY)
    assert value("llmops_cost_total") is None


def test_without_a_price_there_is_time_and_no_cost() -> None:
    costs = Costs(lambda: 0.0)
    registry = CollectorRegistry()
    registry.register(costs)
    costs.see(KEY, profile="cpu", price_per_hour=None, use=use(1, 1))
    names = {sample.name for family in registry.collect() for sample in family.samples}
    assert names == {"llmops_accelerator_seconds_total"}
