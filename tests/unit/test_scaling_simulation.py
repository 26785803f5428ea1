"""The policy over time: steps, noise, nights."""

from __future__ import annotations

import random
from datetime import timedelta
from itertools import pairwise

import pytest

from llmops.judge.scaling import Limits
from llmops.judge.simulation import Fleet, Request, autoscaler, clairvoyant, planned, simulate


def poisson(rates: list[float], service_seconds: float, seed: int) -> list[Request]:
    """One rate per second."""
    dice = random.Random(seed)
    trace = []
    for second, rate in enumerate(rates):
        at = second + dice.expovariate(rate)
        while at < second + 1:
            trace.append(Request(at, service_seconds))
            at += dice.expovariate(rate)
    return trace


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_thirty_percent_does_not_flap(seed: int) -> None:
    dice = random.Random(seed)
    rates = [8.0 * dice.uniform(0.7, 1.3) for _ in range(600)]
    fleet = Fleet(slots=64, load_seconds=30, first=3)
    outcome = simulate(poisson(rates, 5.0, seed), autoscaler(Limits(minimum=1, maximum=10, concurrency=16)), fleet)
    assert outcome.reversals == 0
    assert len(outcome.changes) <= 2, "one size, or one correction"


def test_a_step_is_answered_within_a_quarter_second() -> None:
    trace = [Request(60.0 + index / 1000, 30.0) for index in range(24)]
    limits = Limits(minimum=1, maximum=10, concurrency=16)
    outcome = simulate(trace, autoscaler(limits), Fleet(slots=64, load_seconds=30), tick_seconds=0.05)
    at, size = outcome.changes[1]
    assert size == 2
    assert at - 60.0 <= 0.25


def test_a_trickle_while_the_first_replica_loads_does_not_start_more() -> None:
    trace = [Request(float(second), 2.0) for second in range(1, 120)]
    limits = Limits(minimum=0, maximum=10, concurrency=16)
    outcome = simulate(trace, autoscaler(limits), Fleet(slots=16, load_seconds=60, first=0))
    assert outcome.peak == 1
    assert len(outcome.waits) == len(trace)


def test_to_zero_and_back_loses_nothing() -> None:
    trace = [Request(0.0, 5.0), Request(1000.0, 5.0)]
    limits = Limits(minimum=0, maximum=3, concurrency=4, idle_after=timedelta(seconds=600))
    outcome = simulate(trace, autoscaler(limits), Fleet(slots=4, load_seconds=30, first=1))
    assert [size for _, size in outcome.changes] == [1, 0, 1]
    assert outcome.waits == (0.0, pytest.approx(30.0, abs=1.1))


def test_paid_time_counts_loading_and_draining() -> None:
    trace = [Request(0.0, 10.0)]
    kept = simulate(trace, planned([1], 1.0), Fleet(slots=1, load_seconds=5, first=1))
    cold = simulate(trace, planned([1], 1.0), Fleet(slots=1, load_seconds=5, first=0))
    drained = simulate(trace, planned([1, 0], 1.0), Fleet(slots=1, load_seconds=5, first=1))
    assert (kept.replica_seconds, cold.replica_seconds, drained.replica_seconds) == (11.0, 16.0, 10.0)
    assert cold.waits == (5.0,)


def test_a_clairvoyant_under_the_same_rules_keeps_what_it_had_and_grows_in_steps() -> None:
    trace = [Request(at + number / 100, 5.0) for at in (30.0, 150.0) for number in range(20)]
    limits = Limits(minimum=1, maximum=20, concurrency=4, stabilization=timedelta(seconds=60))
    fleet = Fleet(slots=4, load_seconds=10, first=1)
    free, bound = (
        clairvoyant(trace, limits, fleet, wait_seconds=6.0, obeying=obeying, windows_seconds=(1,))
        for obeying in (False, True)
    )
    assert free.replica_seconds < bound.replica_seconds
    assert max(free.wait(0.95), bound.wait(0.95)) <= 6.0
    sizes = [size for _, size in bound.changes]
    assert all(after <= max(2 * before, before + 4) for before, after in pairwise(sizes))
    lowered = [at for (_, before), (at, after) in pairwise(bound.changes) if after < before]
    assert lowered
    assert all(at >= 90 for at in lowered), "a minute after the first burst at the earliest"
