"""The size of a model: what it is, by what is asked of it, one case per line."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.api.problem import NeedsUser
from llmops.judge import schedule
from llmops.judge.load import Load, Meter, certain_rate
from llmops.judge.scaling import Change, Decision, Limits, Memory, Reason, Scale, decide
from llmops.judge.schedule import Schedule

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)  # a Monday
LONG_AGO = NOW - timedelta(days=1)
LIMITS = Limits(minimum=0, maximum=10, concurrency=16, requests_per_second=4.0)
SEEN_LONG = Memory(known_since=LONG_AGO)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def running(wanted: int, loading: int = 0) -> Scale:
    ready = wanted - loading
    return Scale(wanted=wanted, ready=ready, loading=loading, ready_since=LONG_AGO if ready else None)


def busy(level: int) -> Load:
    """That many requests in flight for more than a minute, none of them new."""
    return Load(since=LONG_AGO, in_flight=level, mean_in_flight=level, last_end=NOW - seconds(1))


def arriving(rate: float) -> Load:
    return Load(since=LONG_AGO, requests_per_second=rate, burst_requests_per_second=rate, last_end=NOW - seconds(1))


def idle(for_seconds: float) -> Load:
    return Load(since=LONG_AGO, last_end=NOW - seconds(for_seconds))


SUDDEN = Load(since=LONG_AGO, in_flight=24, mean_in_flight=8, last_end=NOW)
HELD = Load(since=LONG_AGO, waiting=1)
PARTLY = replace(busy(40), partial=True)
PARTLY_QUIET = replace(busy(0), partial=True)


@pytest.mark.parametrize(
    ("limits", "load", "scale", "replicas", "reason"),
    [
        pytest.param(Limits(fixed=3), busy(900), running(1), 3, Reason.FIXED_SIZE, id="a fixed size ignores load"),
        pytest.param(Limits(fixed=0), HELD, running(2), 0, Reason.FIXED_SIZE, id="a fixed zero is not woken"),
        pytest.param(
            LIMITS, None, Scale(), 1, Reason.FIRST_START, id="a new model is started once even if it may be zero"
        ),
        pytest.param(LIMITS, None, running(3), 3, Reason.LOAD_UNKNOWN, id="unknown load holds"),
        pytest.param(LIMITS, None, running(0), 0, Reason.LOAD_UNKNOWN, id="unknown load does not wake"),
        pytest.param(LIMITS, PARTLY_QUIET, running(3), 3, Reason.LOAD_UNKNOWN, id="partly known load holds"),
        pytest.param(LIMITS, PARTLY, running(1), 3, Reason.DEMAND_ROSE, id="partly known load is enough to grow"),
        pytest.param(LIMITS, HELD, running(0), 1, Reason.REQUESTS_WAITING, id="one held request wakes one replica"),
        pytest.param(
            LIMITS,
            replace(idle(5), mean_in_flight=3.0, requests_per_second=1.0),
            running(0),
            0,
            Reason.DEMAND_MET,
            id="what was asked a minute ago does not wake",
        ),
        pytest.param(LIMITS, busy(16), running(1), 1, Reason.DEMAND_MET, id="at the target nothing happens"),
        pytest.param(LIMITS, busy(17), running(1), 1, Reason.DEMAND_MET, id="a tenth above the target is tolerated"),
        pytest.param(LIMITS, busy(18), running(1), 2, Reason.DEMAND_ROSE, id="more than a tenth for a minute is not"),
        pytest.param(
            LIMITS, SUDDEN, running(1), 2, Reason.DEMAND_ROSE, id="half the target to one and a half: at once"
        ),
        pytest.param(LIMITS, SUDDEN, running(2), 2, Reason.DEMAND_MET, id="the same step fits into two replicas"),
        pytest.param(LIMITS, SUDDEN, running(2, loading=1), 2, Reason.DEMAND_MET, id="a loading replica is capacity"),
        pytest.param(LIMITS, arriving(4.3), running(1), 1, Reason.DEMAND_MET, id="rate within tolerance"),
        pytest.param(LIMITS, arriving(8.5), running(1), 2, Reason.DEMAND_ROSE, id="rate above target"),
        pytest.param(
            LIMITS,
            replace(busy(40), requests_per_second=1),
            running(1),
            3,
            Reason.DEMAND_ROSE,
            id="the larger demand wins",
        ),
        pytest.param(LIMITS, busy(900), running(2), 6, Reason.DEMAND_ROSE, id="plus four from two"),
        pytest.param(LIMITS, busy(900), running(6), 10, Reason.DEMAND_ROSE, id="never above the maximum"),
        pytest.param(LIMITS, busy(900), running(10), 10, Reason.AT_MAXIMUM, id="at the maximum"),
        pytest.param(replace(LIMITS, maximum=2), busy(40), running(4), 2, Reason.LIMITS_CHANGED, id="maximum lowered"),
        pytest.param(
            replace(LIMITS, maximum=2),
            None,
            running(4, loading=2),
            2,
            Reason.LIMITS_CHANGED,
            id="the user's maximum wins over loading",
        ),
        pytest.param(replace(LIMITS, minimum=3), idle(0), running(1), 3, Reason.LIMITS_CHANGED, id="minimum raised"),
        pytest.param(
            replace(LIMITS, minimum=3),
            None,
            running(1),
            3,
            Reason.LIMITS_CHANGED,
            id="minimum raised while load is unknown",
        ),
        pytest.param(LIMITS, idle(599), running(1), 1, Reason.DEMAND_MET, id="not idle long enough"),
        pytest.param(LIMITS, idle(600), running(1), 0, Reason.IDLE, id="idle long enough"),
        pytest.param(
            replace(LIMITS, minimum=1), idle(9999), running(1), 1, Reason.DEMAND_MET, id="idle, but one must stay"
        ),
        pytest.param(
            LIMITS, idle(9999), running(1, loading=1), 1, Reason.DEMAND_MET, id="never ready yet: no idle clock"
        ),
        pytest.param(
            LIMITS,
            idle(9999),
            replace(running(1), ready_since=NOW - seconds(30)),
            1,
            Reason.DEMAND_MET,
            id="idle counts from when it was ready",
        ),
        pytest.param(
            LIMITS,
            Load(since=NOW - seconds(30)),
            running(1),
            1,
            Reason.DEMAND_MET,
            id="nobody remembers a request: idle counts from knowing",
        ),
        pytest.param(
            LIMITS, idle(100), running(4, loading=1), 4, Reason.REPLICAS_LOADING, id="loading replicas are not removed"
        ),
        pytest.param(LIMITS, idle(100), running(4), 1, Reason.DEMAND_FELL, id="demand fell long ago"),
        pytest.param(LIMITS, busy(30), running(4), 2, Reason.DEMAND_FELL, id="down to what the demand needs"),
        pytest.param(LIMITS, busy(16), running(2), 2, Reason.DEMAND_MET, id="not down to a size that would be full"),
    ],
)
def test_one_decision(limits: Limits, load: Load | None, scale: Scale, replicas: int, reason: Reason) -> None:
    decision = decide(limits, load, scale, NOW, SEEN_LONG)

    assert (decision.replicas, decision.reason) == (replicas, reason)
    assert decision.message


class Story:
    """A sequence of decisions, each remembered, the size followed at once."""

    def __init__(self, limits: Limits, wanted: int, memory: Memory | None = None) -> None:
        self.limits, self.wanted, self.memory = limits, wanted, memory

    def at(self, second: float, load: Load | None, loading: int = 0) -> Decision:
        now = NOW + seconds(second)
        decision = decide(self.limits, load, running(self.wanted, loading), now, self.memory)
        self.wanted, self.memory = decision.replicas, decision.memory
        return decision


def test_growth_is_a_doubling_or_four_per_fifteen_seconds() -> None:
    story = Story(replace(LIMITS, maximum=100), 1)
    sizes = [story.at(second, busy(9000)).replicas for second in (0, 1, 14, 15, 29, 30, 45)]
    assert sizes == [5, 5, 5, 10, 10, 20, 40]


def test_a_limited_growth_says_when_it_may_go_on() -> None:
    story = Story(LIMITS, 1)
    story.at(0, busy(9000))
    limited = story.at(5, busy(9000))
    assert (limited.reason, limited.again) == (Reason.RATE_LIMITED, seconds(10))


def test_a_restart_starts_the_stabilization_window_anew() -> None:
    story = Story(LIMITS, 5)  # empty memory: the process is new
    fresh = replace(busy(3), since=NOW)
    assert story.at(0, fresh).replicas == 5
    assert story.at(299, fresh).replicas == 5
    assert story.at(300, fresh).replicas == 1


def test_a_short_stabilization_still_waits_until_a_minute_is_known() -> None:
    story = Story(replace(LIMITS, stabilization=seconds(0)), 5)
    fresh = replace(busy(3), since=NOW)
    assert [story.at(second, fresh).replicas for second in (0, 59, 60)] == [5, 5, 1]


def test_a_gap_in_what_is_known_starts_the_window_anew() -> None:
    story = Story(LIMITS, 5, SEEN_LONG)
    assert story.at(0, None).replicas == 5
    assert story.at(1, busy(3)).replicas == 5
    assert story.at(300, busy(3)).replicas == 5
    assert story.at(301, busy(3)).replicas == 1


def test_down_only_to_the_highest_demand_of_the_window() -> None:
    story = Story(LIMITS, 6, SEEN_LONG)
    sizes = [
        story.at(second, busy(level)).replicas for second, level in ((0, 90), (10, 60), (200, 20), (299, 20), (309, 20))
    ]
    assert sizes == [6, 6, 6, 6, 4]
    assert story.at(310, busy(20)).replicas == 2


def test_what_emptied_a_queue_is_not_kept_for_the_window() -> None:
    """Six replicas are full, because a queue piled up while they loaded; what is asked for fills two."""
    draining = replace(
        busy(96), waiting=50, mean_waiting=200.0, requests_per_second=3.0, recent_requests_per_second=3.0
    )
    limits = replace(LIMITS, requests_per_second=None)
    story = Story(limits, 6, SEEN_LONG)
    assert story.at(0, draining).replicas == 6
    emptied = replace(draining, waiting=0, mean_waiting=40.0)
    assert story.at(10, emptied).replicas == 6
    assert story.at(20, busy(30)).replicas == 2

    without_a_queue = Story(limits, 6, SEEN_LONG)
    assert [without_a_queue.at(at, busy(level)).replicas for at, level in ((0, 96), (20, 30))] == [6, 6]


def test_stabilizing_says_how_long() -> None:
    story = Story(LIMITS, 4, SEEN_LONG)
    story.at(0, busy(60))
    waiting = story.at(100, replace(busy(0), last_end=NOW))
    assert (waiting.replicas, waiting.reason, waiting.again) == (4, Reason.STABILIZING, seconds(200))


def test_the_condition_does_not_move_while_nothing_happens() -> None:
    story = Story(LIMITS, 1, SEEN_LONG)
    after_step = story.at(0, SUDDEN).condition
    later = {story.at(second, busy(level)).condition for second, level in ((1, 25), (2, 27), (3, 29), (50, 20))}
    assert later == {after_step}
    assert after_step[0] is True
    assert "1 to 2: 24 requests in flight" in after_step[2]


def test_a_first_start_that_waits_for_its_weights_began_once() -> None:
    first = decide(LIMITS, idle(0), Scale(), NOW)
    later = decide(LIMITS, idle(0), Scale(), NOW + seconds(40), first.memory)
    assert later.reason is Reason.FIRST_START
    assert later.condition == first.condition


def test_a_restarted_process_tells_the_last_change_that_status_knows() -> None:
    change = Change(LONG_AGO, 1, 2, Reason.DEMAND_ROSE, "24 requests in flight")
    decision = decide(LIMITS, busy(30), running(2), NOW, Memory(last=change))
    assert "Last change: 1 to 2: 24 requests in flight (DemandRose, 2026-11-22T12:00:00Z)." in decision.condition[2]


def test_load_that_is_unknown_for_a_moment_is_nobodys_business() -> None:
    story = Story(LIMITS, 3, SEEN_LONG)
    before = story.at(0, busy(40)).condition
    moment = story.at(1, None)
    assert (moment.replicas, moment.reason, moment.condition) == (3, Reason.LOAD_UNKNOWN, before)
    assert moment.again == seconds(15)
    longer = story.at(17, None)
    assert (longer.replicas, longer.condition[:2]) == (3, (False, Reason.LOAD_UNKNOWN))
    assert story.at(18, busy(40)).condition == before


def test_schedules_raise_the_floor_and_lower_it_again() -> None:
    limits = replace(
        LIMITS,
        schedules=(Schedule("0 7 * * 1-5", "Europe/Berlin", 2), Schedule("0 19 * * *", "Europe/Berlin", 0)),
    )
    berlin_seven = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
    before, at, noon, evening = (
        limits.floor(berlin_seven + span) for span in (-seconds(1), seconds(0), timedelta(hours=5), timedelta(hours=12))
    )
    assert (before, at, noon, evening) == (0, 2, 2, 0)
    asleep = decide(limits, idle(9999), running(0), berlin_seven - seconds(30), SEEN_LONG)
    assert (asleep.replicas, asleep.again) == (0, seconds(30))
    assert decide(limits, idle(9999), running(0), berlin_seven, SEEN_LONG).replicas == 2


@given(
    wanted=st.integers(0, 12),
    level=st.integers(0, 400),
    rate=st.floats(0, 100),
    waiting=st.integers(0, 400),
    loading=st.integers(0, 12),
)
def test_any_load_gives_a_size_within_the_limits_and_no_removal_while_loading(
    wanted: int, level: int, rate: float, waiting: int, loading: int
) -> None:
    load = replace(busy(level), waiting=waiting, mean_waiting=waiting, requests_per_second=rate)
    scale = running(wanted, min(loading, wanted))
    size = decide(LIMITS, load, scale, NOW, SEEN_LONG).replicas
    assert LIMITS.minimum <= size <= LIMITS.maximum
    if scale.loading and wanted <= LIMITS.maximum:
        assert size >= wanted
    if waiting:
        assert size >= 1


@given(first=st.integers(0, 300), more=st.integers(0, 300), wanted=st.integers(1, 10))
def test_more_load_never_means_fewer_replicas(first: int, more: int, wanted: int) -> None:
    little = decide(LIMITS, busy(first), running(wanted), NOW, SEEN_LONG).replicas
    much = decide(LIMITS, busy(first + more), running(wanted), NOW, SEEN_LONG).replicas
    assert little <= much


def test_the_meter_weighs_levels_by_time() -> None:
    meter = Meter(0.0)
    meter.observe(0.0, arrivals=10, in_flight=10, waiting=0)
    meter.observe(30.0, arrivals=6, in_flight=0, waiting=4, last_end=29.5)
    load = meter.load(60.0)
    assert (load.mean_in_flight, load.mean_waiting) == pytest.approx((5.0, 2.0))
    assert load.requests_per_second == pytest.approx(6 / 60)
    assert load.last_end == datetime.fromtimestamp(29.5, UTC)


def test_the_meter_measures_how_long_a_replica_takes() -> None:
    meter = Meter(0.0)
    for second in range(60):
        meter.observe(float(second), arrivals=1, in_flight=min(second + 1, 5), waiting=0)
    assert meter.load(60.0).service_seconds == pytest.approx(5.0, rel=0.1)


def test_the_meter_forgets_what_is_older_than_a_minute() -> None:
    meter = Meter(0.0)
    meter.observe(1.0, arrivals=600, in_flight=600, waiting=0)
    meter.observe(2.0, arrivals=0, in_flight=0, waiting=0)
    quiet = meter.load(70.0)
    assert (quiet.requests_per_second, quiet.mean_in_flight, quiet.burst_requests_per_second) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("count", "window", "at_most"),
    [
        pytest.param(0, 1.0, 0.0, id="nothing is nothing"),
        pytest.param(3, 0.25, 3.0, id="three requests at once prove little"),
        pytest.param(1000, 1.0, 1000.0, id="never more than was seen"),
    ],
)
def test_certain_rate(count: int, window: float, at_most: float) -> None:
    assert certain_rate(count, window) <= at_most


def test_many_requests_are_certain() -> None:
    assert certain_rate(1000, 1.0) > 900


@pytest.mark.parametrize(
    ("cron", "zone", "now", "fired"),
    [
        pytest.param(
            "0 7 * * *", "UTC", "2026-11-23T07:00:00+00:00", "2026-11-23T07:00:00+00:00", id="this very minute"
        ),
        pytest.param(
            "0 7 * * *", "UTC", "2026-11-23T06:59:59+00:00", "2026-11-22T07:00:00+00:00", id="a second before"
        ),
        pytest.param(
            "0 7 * * 1-5", "UTC", "2026-11-22T12:00:00+00:00", "2026-11-20T07:00:00+00:00", id="over a weekend"
        ),
        pytest.param("0 7 * * *", "Asia/Tokyo", "2026-11-23T00:00:00+00:00", "2026-11-22T22:00:00+00:00", id="a zone"),
        pytest.param(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-29T12:00:00+00:00",
            "2026-03-29T01:00:00+00:00",
            id="the hour that summer time skips",
        ),
        pytest.param(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-25T12:00:00+00:00",
            "2026-10-25T00:30:00+00:00",
            id="the hour that winter time repeats comes once",
        ),
        pytest.param(
            "0 7 * * *", "Europe/Berlin", "2026-03-28T12:00:00+00:00", "2026-03-28T06:00:00+00:00", id="seven in winter"
        ),
        pytest.param(
            "0 7 * * *", "Europe/Berlin", "2026-03-29T12:00:00+00:00", "2026-03-29T05:00:00+00:00", id="seven in summer"
        ),
        pytest.param("0 0 30 2 *", "UTC", "2026-11-23T00:00:00+00:00", None, id="a date that never comes"),
    ],
)
def test_the_last_firing(cron: str, zone: str, now: str, fired: str | None) -> None:
    expected = None if fired is None else datetime.fromisoformat(fired)
    assert schedule.previous(cron, zone, datetime.fromisoformat(now)) == expected


@pytest.mark.parametrize(
    ("cron", "zone"),
    [("0 7 * *", "UTC"), ("0 25 * * *", "UTC"), ("0 7 * * *", "Europe/Atlantis"), ("0 7 * * *", "../etc")],
)
def test_a_schedule_nobody_can_follow_is_refused(cron: str, zone: str) -> None:
    with pytest.raises(NeedsUser, match="A schedule cannot be followed"):
        schedule.check(cron, zone)
