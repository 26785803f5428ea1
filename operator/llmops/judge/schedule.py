"""What a clock asks for: cron expressions in a time zone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from llmops.api.conditions import Reason
from llmops.api.problem import NeedsUser


@dataclass(frozen=True, slots=True)
class Schedule:
    """From every firing on, `min_replicas` is the least number, until another schedule of the same deployment fires."""

    cron: str  # five fields: minute hour day-of-month month day-of-week
    time_zone: str  # IANA name
    min_replicas: int


def check(cron: str, time_zone: str) -> None:
    """See whether both can be followed: a schema knows the shape of a time zone's name, not which zones there are.

    Raises:
        NeedsUser: a cron expression or a time zone that nobody can follow; the message names which and why.
    """
    _zone(time_zone)
    if len(cron.split()) != 5:
        raise _refusal(f"cron {cron!r}: five fields are needed (minute hour day month weekday)")
    try:
        CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as problem:
        raise _refusal(f"cron {cron!r}: {problem}") from problem


def previous(cron: str, time_zone: str, now: datetime) -> datetime | None:
    """The last firing at or before `now`; None for a date that never comes.

    Debian's cron rules around daylight saving: a time that does not exist fires right after the gap, one that
    exists twice fires once.
    """
    return _next(cron, time_zone, _minute(now), reverse=True)


def following(cron: str, time_zone: str, now: datetime) -> datetime | None:
    """The first firing after `now`; None for a date that never comes."""
    return _next(cron, time_zone, _minute(now), reverse=False)


def longest_gap(cron: str, time_zone: str, now: datetime, *, firings: int = 16) -> timedelta | None:
    """The longest time between two of the next firings; None for a date that never comes again."""
    moments = [now]
    while len(moments) <= firings and (at := following(cron, time_zone, moments[-1])) is not None:
        moments.append(at)
    gaps = [after - before for before, after in pairwise(moments[1:])]
    return max(gaps, default=None)


def floor(schedules: Iterable[Schedule], now: datetime) -> int | None:
    """The replicas that the schedule which fired last asks for; None when none ever has. On a tie the larger wins."""
    fired = (
        (at, schedule.min_replicas)
        for schedule in schedules
        if (at := previous(schedule.cron, schedule.time_zone, now)) is not None
    )
    return max(fired, default=(now, None))[1]


def next_change(schedules: Iterable[Schedule], now: datetime) -> datetime | None:
    """When the floor may be another one."""
    firings = (following(schedule.cron, schedule.time_zone, now) for schedule in schedules)
    return min((at for at in firings if at is not None), default=None)


@lru_cache(maxsize=4096)  # asked with every change of load, answered anew once a minute
def _next(cron: str, time_zone: str, minute: datetime, *, reverse: bool) -> datetime | None:
    # looking back leaves out the very moment; a firing at this minute has fired
    start = minute + timedelta(microseconds=1) if reverse else minute
    try:
        fired = next(CronSim(cron, start.astimezone(_zone(time_zone)), reverse=reverse), None)
    except CronSimError:
        return None  # the 30th of February: spelled as the API allows, and it never comes
    # In UTC: Python calls times in the hour that winter time repeats unequal to every time of another zone.
    return None if fired is None else fired.astimezone(UTC)


def _minute(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(second=0, microsecond=0)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as problem:
        raise _refusal(f"time zone {name!r} is not in the IANA database; write one like Europe/Berlin") from problem


def _refusal(what: str) -> NeedsUser:
    return NeedsUser(Reason.INVALID_SPEC, f"A schedule cannot be followed: {what}.")
