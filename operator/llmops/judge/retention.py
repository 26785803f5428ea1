"""Which restore points stay: the last few, one per day, week, month and year, and never the ones that matter most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Policy:
    """How many points to keep by each rule; empty periods use up no place. All zero keeps everything."""

    keep_last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    @property
    def empty(self) -> bool:
        return not (self.keep_last or self.daily or self.weekly or self.monthly or self.yearly)


@dataclass(frozen=True, slots=True)
class Point:
    """A restore point as retention sees it. `taken` is aware, in UTC; `failed` means that it cannot be restored."""

    id: str
    taken: datetime
    verified: bool = False
    failed: bool = False
    deployed: bool = False
    held: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the point stays, and every rule that says so; `reasons` of a dropped point say why it may go."""

    keep: bool
    reasons: tuple[str, ...]


Period = Callable[[datetime], tuple[int, ...]]
Following = Callable[[datetime], datetime | None]

PERIODS: Mapping[str, Period] = {
    "Daily": lambda at: (at.year, at.month, at.day),
    "Weekly": lambda at: at.isocalendar()[:2],
    "Monthly": lambda at: (at.year, at.month),
    "Yearly": lambda at: (at.year,),
}


def judge(points: Iterable[Point], policy: Policy) -> dict[str, Verdict]:
    """A verdict for each point, by id.

    Of a period the newest point stands for it. Failed points take no place in any rule, so that a week of failing
    backups does not push out the good ones; they go as soon as a newer verified point exists. Whatever the policy says,
    the newest verified point, deployed points and held points stay.
    """
    newest_first = sorted(points, key=lambda point: (point.taken, point.id), reverse=True)
    good = [point for point in newest_first if not point.failed]
    newest_verified = next((point for point in good if point.verified), None)
    reasons = {point.id: _protections(point, newest_verified) for point in newest_first}
    for point in good if policy.empty else ():
        reasons[point.id].append("NoPolicy")
    for point in good[: policy.keep_last]:
        reasons[point.id].append("Last")
    counts = {"Daily": policy.daily, "Weekly": policy.weekly, "Monthly": policy.monthly, "Yearly": policy.yearly}
    for rule, count in counts.items():
        for point in _newest_of_each(good, PERIODS[rule])[:count]:
            reasons[point.id].append(rule)
    return {
        point.id: Verdict(keep=bool(reasons[point.id]), reasons=tuple(reasons[point.id]) or (_why_not(point),))
        for point in newest_first
    }


def expiry(taken: datetime, policy: Policy, following: Following) -> datetime | None:
    """When the point of this time would be dropped, if one is made at every `following` time; None: never.

    It goes when the last rule lets it go: the newest `keep_last` are others, or enough later periods have a point.
    """
    counts = {"Daily": policy.daily, "Weekly": policy.weekly, "Monthly": policy.monthly, "Yearly": policy.yearly}
    ends = [_after(taken, policy.keep_last, following)] if policy.keep_last else []
    ends += [_after_periods(taken, PERIODS[rule], count, following) for rule, count in counts.items() if count]
    known = [end for end in ends if end is not None]
    return max(known) if ends and len(known) == len(ends) else None


def _after(taken: datetime, count: int, following: Following) -> datetime | None:
    """The `count`-th point after this one."""
    at: datetime | None = taken
    for _ in range(count):
        at = following(at) if at else None
    return at


def _after_periods(taken: datetime, period: Period, count: int, following: Following) -> datetime | None:
    """The first point of the `count`-th later period that has one; the next point, when it is of the same period."""
    at = following(taken)
    if at is None or period(at) == period(taken):
        return at
    for _ in range(count - 1):
        at = _next_period(at, period, following)
        if at is None:
            return None
    return at


def _next_period(at: datetime, period: Period, following: Following) -> datetime | None:
    """The first point of a later period: by halving, since a year of hourly points is long to walk through."""
    step = timedelta(days=366)
    before = at
    while step >= timedelta(minutes=1):
        if period(before + step) == period(at):
            before += step
        else:
            step /= 2
    after = following(before)
    while after is not None and period(after) == period(at):
        after = following(after)
    return after


def _protections(point: Point, newest_verified: Point | None) -> list[str]:
    """The reasons for which the point stays whatever the policy says."""
    superseded = newest_verified is not None and newest_verified.taken > point.taken
    holds = {
        "NewestVerified": point is newest_verified,
        "Deployed": point.deployed,
        "Held": point.held,
        "NothingNewerIsVerified": point.failed and not superseded,
    }
    return [reason for reason, applies in holds.items() if applies]


def _newest_of_each(newest_first: Iterable[Point], period: Period) -> list[Point]:
    firsts: dict[tuple[int, ...], Point] = {}
    for point in newest_first:
        firsts.setdefault(period(point.taken), point)
    return list(firsts.values())


def _why_not(point: Point) -> str:
    return "Failed" if point.failed else "OutsidePolicy"
