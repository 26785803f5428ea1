"""Keys that wait to be looked at: one worker per key at a time, bounded workers, back-off per key.

A wake carries no difference, only the key, so that losing, doubling or reordering wakes changes nothing. Waking a key
while it is being worked on makes it run once more afterwards, not twice at once.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

K = TypeVar("K")

BACKOFF_SECONDS = (1.0, 300.0)
AWAITED_SECONDS = 5.0  # for what is known to pass: somebody was faster, or said when to come back
DEADLINE_SECONDS = 30.0


@dataclass(frozen=True)
class Outcome(Generic[K]):
    """What happened to one key, for metrics: `error` is what it raised, `seconds` how long it took."""

    key: K
    seconds: float
    error: BaseException | None


class Wakeups(Generic[K]):
    """A queue of keys with due times.

    `work(key)` returns when to look again, or `None` for "when something changes". What it raises is reported to
    `done` and retried: 1 s, doubling to 5 minutes, with jitter, so that one poisoned object costs little and delays
    nobody. An error that says it `passes` is tried again within seconds, one with `retry_after` not before so many.
    `before` is awaited before each key is taken: what nobody could work on now is not tried, and does not count as a
    failure of the key.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[timedelta | None]],
        *,
        workers: int,
        done: Callable[[Outcome[K]], None],
        clock: Callable[[], float],
        jitter: Callable[[], float],
        before: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._work, self._workers, self._done, self._before = work, workers, done, before
        self._clock, self._jitter = clock, jitter
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._running: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._left_alone: dict[K, float] = {}  # until when, whatever happens
        self._changed = asyncio.Event()
        self._blocked = 0
        self._since = -math.inf

    def wake(self, key: K, *, after: float = 0.0) -> None:
        """Look at `key` within `after` seconds, or when it may be again; an earlier appointment stands."""
        if key in self._running and after == 0.0:
            self._again.add(key)
            return
        due = max(self._clock() + after, self._left_alone.get(key, -math.inf))
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._changed.set()

    @property
    def depth(self) -> int:
        """How many keys are due now or being worked on."""
        now = self._clock()
        return len(self._running) + sum(1 for due in self._due.values() if due <= now)

    @property
    def lateness(self) -> float:
        """By how many seconds the oldest due key is late: the operator's health. While nobody may work, nothing is."""
        if self._blocked:
            return 0.0
        return max(0.0, self._clock() - max(self._since, min(self._due.values(), default=self._clock())))

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._worker())

    async def _allowed(self) -> None:
        """Wait until work is possible; what was due meanwhile is late from then on."""
        if self._before is None:
            return
        began = self._clock()
        self._blocked += 1
        try:
            await self._before()
        finally:
            self._blocked -= 1
        if self._clock() - began > 1:  # it was not to be had at once
            self._since = self._clock()

    async def _worker(self) -> None:
        while True:
            key = await self._next()
            self._running.add(key)
            await self._allowed()
            began = self._clock()
            error: BaseException | None = None
            again: timedelta | None = None
            try:
                # Not wait_for: up to Python 3.11 it can lose the cancellation that meets the end of what it waits for.
                async with asyncio.timeout(DEADLINE_SECONDS):
                    again = await self._work(key)
            except Exception as problem:  # noqa: BLE001 - the one seam where any failure of any key becomes its back-off
                error = problem
            finally:
                self._running.discard(key)
            self._appoint(key, error, again)
            self._done(Outcome(key, self._clock() - began, error))

    def _appoint(self, key: K, error: BaseException | None, again: timedelta | None) -> None:
        once_more = key in self._again
        self._again.discard(key)
        self._left_alone.pop(key, None)
        if error is not None:
            self._failures[key] = failures = self._failures.get(key, 0) + 1
            first, longest = BACKOFF_SECONDS
            asked = getattr(error, "retry_after", None) or 0.0
            if asked:
                self._left_alone[key] = self._clock() + asked
                self._due.pop(key, None)
            if getattr(error, "passes", False):
                longest = AWAITED_SECONDS
            pause = max(asked, min(longest, first * 2 ** min(failures - 1, 16)))
            self.wake(key, after=pause * (1 + self._jitter() / 4))
            return
        self._failures.pop(key, None)
        if once_more:
            self.wake(key)
        elif again is not None:
            self.wake(key, after=again.total_seconds())

    async def _next(self) -> K:
        while True:
            while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
                heapq.heappop(self._heap)  # an earlier appointment overtook this one
            pause = self._heap[0][0] - self._clock() if self._heap else None
            if pause is not None and pause <= 0:
                _, _, key = heapq.heappop(self._heap)
                del self._due[key]
                if key not in self._running:
                    return key
                self._again.add(key)  # its appointment came while it is being worked on
                continue
            self._changed.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue
