from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.judge.retention import Point, Policy, expiry, judge

START = datetime(2026, 1, 1, tzinfo=UTC)


def nightly(count: int, **flags: bool) -> list[Point]:
    return [Point(f"d{day}", START + timedelta(days=day), **flags) for day in range(count)]


def kept(points: list[Point], policy: Policy) -> list[str]:
    verdicts = judge(points, policy)
    return [point.id for point in points if verdicts[point.id].keep]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(Policy(), [f"d{day}" for day in range(40)], id="no rule keeps everything"),
        pytest.param(Policy(keep_last=2), ["d38", "d39"], id="the last two"),
        pytest.param(Policy(daily=3), ["d37", "d38", "d39"], id="one a day"),
        pytest.param(Policy(weekly=2), ["d38", "d39"], id="one a week, the newest of it (Sunday is d38)"),
        pytest.param(Policy(monthly=5), ["d30", "d39"], id="one a month, and months without points use up nothing"),
        pytest.param(Policy(yearly=1), ["d39"], id="one a year"),
        pytest.param(Policy(keep_last=1, monthly=2), ["d30", "d39"], id="rules add up"),
    ],
)
def test_rules(policy: Policy, expected: list[str]) -> None:
    points = nightly(40)
    weekday = (START + timedelta(days=38)).isoweekday()
    assert weekday == 7
    assert kept(points, policy) == expected


def test_two_points_of_a_day_count_as_one_day() -> None:
    points = [Point("morning", START), Point("evening", START + timedelta(hours=20)), *nightly(3)[1:]]
    assert kept(points, Policy(daily=3)) == ["evening", "d1", "d2"]


@pytest.mark.parametrize(
    ("special", "reason"),
    [
        pytest.param({"verified": True}, "NewestVerified", id="the newest verified, however old"),
        pytest.param({"deployed": True}, "Deployed", id="a deployed one"),
        pytest.param({"held": True}, "Held", id="a held one"),
    ],
)
def test_some_points_stay_whatever_the_policy_says(special: dict[str, bool], reason: str) -> None:
    points = [Point("old", START - timedelta(days=900), **special), *nightly(30)]
    verdict = judge(points, Policy(keep_last=1))["old"]
    assert (verdict.keep, verdict.reasons) == (True, (reason,))


def test_a_week_of_failing_backups_pushes_out_nothing() -> None:
    good, failing = nightly(3), [Point(f"f{day}", START + timedelta(days=10 + day), failed=True) for day in range(7)]
    assert kept([*good, *failing], Policy(keep_last=3))[:3] == ["d0", "d1", "d2"]


def test_failed_points_go_once_a_newer_one_is_verified() -> None:
    failed = Point("failed", START, failed=True)
    assert judge([failed], Policy(keep_last=1))["failed"].keep
    after = judge([failed, Point("good", START + timedelta(days=1), verified=True)], Policy(keep_last=1))
    assert after["failed"].reasons == ("Failed",)


POINTS = st.lists(
    st.builds(
        Point,
        id=st.uuids().map(str),
        taken=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        verified=st.booleans(),
        failed=st.booleans(),
        deployed=st.booleans(),
        held=st.booleans(),
    ),
    unique_by=lambda point: point.id,
    max_size=40,
)
COUNTS = st.integers(0, 5)
POLICIES = st.builds(Policy, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)


@given(POINTS, POLICIES)
def test_no_history_loses_the_newest_verified_a_deployed_or_a_held_point(points: list[Point], policy: Policy) -> None:
    verdicts = judge(points, policy)
    verified = [point for point in points if point.verified and not point.failed]
    newest = max(verified, key=lambda point: (point.taken, point.id), default=None)
    precious = {point.id for point in points if point.deployed or point.held or point is newest}
    assert verdicts.keys() == {point.id for point in points}
    assert all(verdicts[identity].keep for identity in precious)
    assert all(verdict.reasons for verdict in verdicts.values())


@given(POINTS, POLICIES)
def test_judging_again_what_was_kept_drops_nothing_more(points: list[Point], policy: Policy) -> None:
    first = judge(points, policy)
    left = [point for point in points if first[point.id].keep]
    assert all(verdict.keep for verdict in judge(left, policy).values())


@given(POINTS, POLICIES, st.integers(0, 39))
def test_what_has_failed_does_not_change_what_happens_to_the_rest(points: list[Point], policy: Policy, at: int) -> None:
    failed = [point for point in points if point.failed][at : at + 1]
    without = [point for point in points if point not in failed]
    before, after = judge(without, policy), judge(points, policy)
    assert all(before[point.id].keep == after[point.id].keep for point in without)


# -- when a point would go


@settings(max_examples=60, deadline=None)
@given(
    policy=st.builds(
        Policy,
        keep_last=st.integers(0, 4),
        daily=st.integers(0, 4),
        weekly=st.integers(0, 3),
        monthly=st.integers(0, 3),
        yearly=st.integers(0, 1),
    ).filter(lambda policy: not policy.empty),
    hours=st.sampled_from([24, 36, 24 * 9]),
    chosen=st.integers(0, 20),
)
def test_a_point_goes_when_it_was_said_to(policy: Policy, hours: int, chosen: int) -> None:
    """The foretold time is that of the first point after whose making retention lets this one go."""
    begin, step = datetime(2026, 1, 28, 3, tzinfo=UTC), timedelta(hours=hours)

    def following(at: datetime) -> datetime:
        return begin + ((at - begin) // step + 1) * step

    taken = begin + chosen * step
    said = expiry(taken, policy, following)
    assert said is not None
    points = [Point(str(taken), taken)]
    while points[-1].taken < said:
        points.append(Point(str(following(points[-1].taken)), following(points[-1].taken)))
    assert not judge(points, policy)[str(taken)].keep
    assert judge(points[:-1], policy)[str(taken)].keep


def test_without_a_policy_or_a_schedule_nothing_goes() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert expiry(at, Policy(), lambda at: at + timedelta(days=1)) is None
    assert expiry(at, Policy(keep_last=1), lambda _: None) is None
