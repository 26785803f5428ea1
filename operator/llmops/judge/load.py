"""How much is asked of one model: the numbers the autoscaler looks at, and the meter that makes them of raw counts."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

STEADY_SECONDS = 60.0
RECENT_SECONDS = 15.0
# From the shortest, in which a tenfold step is already certain, to the longest, in which one of half as much again is.
BURST_WINDOWS_SECONDS = (0.25, 1.0, 5.0, RECENT_SECONDS)
CERTAINTY_SIGMAS = 3.0
ENOUGH_COMPLETIONS = 10
BUCKETS_PER_WINDOW = 60


@dataclass(frozen=True, slots=True)
class Load:
    """What the gateways saw of one model. Nobody knows = no `Load` at all (`None`), never one full of zeros."""

    since: datetime  # from when on every gateway has been heard without a gap
    in_flight: int = 0  # handed to a replica and not finished, now
    waiting: int = 0  # held by a gateway, now; not part of in_flight
    mean_in_flight: float = 0.0  # time-weighted, over the last 60 s
    mean_waiting: float = 0.0  # the same
    requests_per_second: float = 0.0  # mean over the last 60 s
    recent_requests_per_second: float = 0.0  # mean over the last 15 s
    burst_requests_per_second: float = 0.0  # the highest rate that is certain (3 sigma) in the last 0.25, 1, 5 or 15 s
    service_seconds: float | None = None  # mean time a replica spends on a request; None until ten have finished
    last_end: datetime | None = None  # when the last request ended; None: none did, as far as anybody remembers
    partial: bool = False  # some gateway is not heard: a lower bound, good for scaling up and for nothing else

    @property
    def active(self) -> bool:
        """Somebody is being answered or waits to be."""
        return self.in_flight > 0 or self.waiting > 0


def certain_rate(count: float, window_seconds: float) -> float:
    """The lowest mean rate that explains `count` Poisson arrivals in the window within three standard deviations.

    Solves m + z*sqrt(m) = count for the mean m: a handful of arrivals close together proves nothing, a hundred do.
    """
    root = (math.sqrt(CERTAINTY_SIGMAS**2 + 4 * count) - CERTAINTY_SIGMAS) / 2
    return root * root / window_seconds


@dataclass(slots=True)
class _Window:
    """A sum over the last `seconds`, in at most about sixty buckets whatever the number of additions."""

    seconds: float
    total: float = 0.0
    buckets: deque[list[float]] = field(default_factory=deque)

    def add(self, now: float, amount: float) -> None:
        if amount == 0:
            return
        if self.buckets and now - self.buckets[-1][0] < self.seconds / BUCKETS_PER_WINDOW:
            self.buckets[-1][1] += amount
        else:
            self.buckets.append([now, amount])
        self.total += amount

    def sum(self, now: float) -> float:
        horizon = now - self.seconds
        while self.buckets and self.buckets[0][0] <= horizon:
            self.total -= self.buckets.popleft()[1]
        if not self.buckets:
            self.total = 0.0  # what rounding has left over must not look like a trickle of requests
        return self.total


class Meter:
    """Turns the counts of one model into its `Load`. Times are unix seconds and never go back; it keeps no clock."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.in_flight = 0
        self.waiting = 0
        self.last_end: float | None = None
        self._at = since
        self._service_seconds: float | None = None
        self._arrivals = _Window(STEADY_SECONDS)
        self._bursts = [_Window(seconds) for seconds in BURST_WINDOWS_SECONDS]
        self._served = _Window(STEADY_SECONDS)  # request-seconds in flight
        self._held = _Window(STEADY_SECONDS)  # request-seconds waiting
        self._completions = _Window(STEADY_SECONDS)

    def observe(
        self, now: float, *, arrivals: int, in_flight: int, waiting: int, last_end: float | None = None
    ) -> None:
        """Take in what changed: arrivals since the last observation, and the levels that hold from `now` on."""
        self._advance(now)
        completed = self.in_flight + self.waiting + arrivals - in_flight - waiting
        self._arrivals.add(now, arrivals)
        for window in self._bursts:
            window.add(now, arrivals)
        self._completions.add(now, max(0, completed))
        self.in_flight, self.waiting = in_flight, waiting
        if last_end is not None and (self.last_end is None or last_end > self.last_end):
            self.last_end = last_end

    def correct(self, now: float, *, in_flight: int, waiting: int) -> None:
        """Set the levels without taking the difference for requests that ended: whoever counted them is gone."""
        self._advance(now)
        self.in_flight, self.waiting = in_flight, waiting

    def load(self, now: float, *, since: float | None = None, partial: bool = False) -> Load:
        """The load as of `now`, known without a gap `since` then (default: the meter's beginning).

        A window that reaches back before the meter's beginning is judged by the part that was seen.
        """
        self._advance(now)
        seen = now - self.since
        recent = self._bursts[-1].sum(now)
        finished = self._completions.sum(now)
        if finished >= ENOUGH_COMPLETIONS:
            self._service_seconds = self._served.sum(now) / finished
        weighed = min(seen, STEADY_SECONDS)
        return Load(
            since=datetime.fromtimestamp(self.since if since is None else since, UTC),
            in_flight=self.in_flight,
            waiting=self.waiting,
            mean_in_flight=self._served.sum(now) / weighed if seen > 0 else float(self.in_flight),
            mean_waiting=self._held.sum(now) / weighed if seen > 0 else float(self.waiting),
            requests_per_second=self._arrivals.sum(now) / min(max(seen, RECENT_SECONDS), STEADY_SECONDS),
            recent_requests_per_second=recent / RECENT_SECONDS,
            burst_requests_per_second=max(certain_rate(window.sum(now), window.seconds) for window in self._bursts),
            service_seconds=self._service_seconds,
            last_end=None if self.last_end is None else datetime.fromtimestamp(self.last_end, UTC),
            partial=partial,
        )

    def _advance(self, now: float) -> None:
        """Account for the levels held since the last call, in steps small enough to leave the window one by one."""
        start = max(self._at, now - STEADY_SECONDS)
        step = STEADY_SECONDS / BUCKETS_PER_WINDOW
        while start < now:
            end = min(start + step, now)
            self._served.add(end, self.in_flight * (end - start))
            self._held.add(end, self.waiting * (end - start))
            start = end
        self._at = max(self._at, now)
