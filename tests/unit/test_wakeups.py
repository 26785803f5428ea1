"""Keys that wait: one at a time each, again after a wake, back-off after a failure, nobody delayed by anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from llmops.shell.wakeups import Outcome, Wakeups


class Failure(Exception):
    """Something a look may raise."""


class Bench:
    """A queue whose work is a table: key -> what each look at it does."""

    def __init__(
        self,
        work: Callable[[str], Awaitable[timedelta | None]],
        workers: int = 4,
        before: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.outcomes: list[Outcome[str]] = []
        self.seen = asyncio.Event()
        self.queue = Wakeups(
            work,
            workers=workers,
            done=self._done,
            clock=asyncio.get_running_loop().time,
            jitter=lambda: 0.0,
            before=before,
        )

    def _done(self, outcome: Outcome[str]) -> None:
        self.outcomes.append(outcome)
        self.seen.set()

    async def until(self, looks: int) -> None:
        """Run the queue until it has looked this often."""
        task = asyncio.create_task(self.queue.run())
        async with asyncio.timeout(5):
            while len(self.outcomes) < looks:
                self.seen.clear()
                await self.seen.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_waking_twice_before_a_look_is_one_look() -> None:
    async def scenario() -> list[str]:
        looked = []

        async def work(key: str) -> None:
            looked.append(key)

        bench = Bench(work)
        for key in ("a", "a", "b", "a"):
            bench.queue.wake(key)
        await bench.until(2)
        return looked

    assert sorted(asyncio.run(scenario())) == ["a", "b"]


def test_a_wake_during_a_look_means_one_more_look_and_never_two_at_once() -> None:
    async def scenario() -> tuple[int, int]:
        running = most = looks = 0

        async def work(key: str) -> None:
            nonlocal running, most, looks
            running += 1
            most = max(most, running)
            looks += 1
            if looks == 1:
                bench.queue.wake(key)
                bench.queue.wake(key)
            await asyncio.sleep(0)
            running -= 1

        bench = Bench(work)
        bench.queue.wake("a")
        await bench.until(2)
        return looks, most

    assert asyncio.run(scenario()) == (2, 1)


def test_a_failing_key_backs_off_and_delays_nobody() -> None:
    async def scenario() -> tuple[list[str], float]:
        async def work(key: str) -> None:
            if key == "poison":
                raise Failure

        bench = Bench(work, workers=1)
        bench.queue.wake("poison")
        for key in "abc":
            bench.queue.wake(key)
        await bench.until(4)
        return [outcome.key for outcome in bench.outcomes], bench.queue.lateness

    keys, lateness = asyncio.run(scenario())
    assert sorted(keys) == ["a", "b", "c", "poison"]
    assert lateness == 0  # its next look is a second away, and not late


class Throttled(Exception):
    """Somebody wants to be left alone for a quarter of an hour."""

    retry_after = 900.0


def test_who_wants_to_be_left_alone_is_whatever_wakes_the_key() -> None:
    async def scenario() -> list[str]:
        async def work(key: str) -> None:
            if key == "throttled":
                bench.queue.wake(key, after=0.001)
                raise Throttled

        bench = Bench(work, workers=1)
        bench.queue.wake("throttled")
        await bench.until(1)
        bench.queue.wake("throttled")
        bench.queue.wake("another", after=0.01)
        await bench.until(2)
        return [outcome.key for outcome in bench.outcomes]

    assert asyncio.run(scenario()) == ["throttled", "another"]


def test_a_look_may_ask_for_the_next_one() -> None:
    async def scenario() -> int:
        looks = 0

        async def work(_: str) -> timedelta | None:
            nonlocal looks
            looks += 1
            return timedelta(milliseconds=1) if looks < 3 else None

        bench = Bench(work)
        bench.queue.wake("a")
        await bench.until(3)
        return looks

    assert asyncio.run(scenario()) == 3


@pytest.mark.parametrize("later", [0.0, 0.001])
def test_an_earlier_appointment_overtakes_a_later_one(later: float) -> None:
    async def scenario() -> None:
        async def work(_: str) -> None:
            return None

        bench = Bench(work)
        bench.queue.wake("a", after=1000)
        bench.queue.wake("a", after=later)
        await bench.until(1)

    asyncio.run(scenario())


@pytest.mark.parametrize("turns", range(6))
def test_an_end_that_meets_the_end_of_a_look_is_an_end(turns: int) -> None:
    """Cancelled in whichever turn of the loop a look ends, every worker ends: a process that must stop stops."""

    async def scenario() -> None:
        ending: list[asyncio.Task[None]] = []

        async def work(_key: str) -> timedelta | None:
            ending[0].cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
            return None

        clock = asyncio.get_running_loop().time
        wakeups = Wakeups[str](work, workers=2, done=lambda _: None, clock=clock, jitter=lambda: 0.0)
        ending.append(asyncio.create_task(wakeups.run()))
        wakeups.wake("a")
        await asyncio.wait(ending, timeout=30)
        assert ending[0].done()

    asyncio.run(scenario())


def test_an_appointment_that_comes_while_a_key_is_worked_on_does_not_work_on_it_twice_at_once() -> None:
    async def scenario() -> tuple[int, int]:
        at_once = most = looks = 0
        overlapped = asyncio.Event()

        async def work(key: str) -> None:
            nonlocal at_once, most, looks
            if key == "other":
                overlapped.set()
                return
            looks += 1
            at_once += 1
            most = max(most, at_once)
            if looks == 1:
                bench.queue.wake("a", after=0.001)  # what a gateway's load line does
                bench.queue.wake("other", after=0.002)
                await overlapped.wait()
            at_once -= 1

        bench = Bench(work)
        bench.queue.wake("a")
        await bench.until(3)
        return most, looks

    assert asyncio.run(scenario()) == (1, 2)


def test_while_nobody_may_work_nothing_fails_and_nothing_is_late() -> None:
    async def scenario() -> tuple[list[str], float, float, list[BaseException | None]]:
        asked, allowed, looked = asyncio.Event(), asyncio.Event(), list[str]()

        async def work(key: str) -> None:
            looked.append(key)

        async def before() -> None:
            asked.set()
            await allowed.wait()

        bench = Bench(work, workers=1, before=before)
        for key in ("a", "b", "c"):
            bench.queue.wake(key)
        task = asyncio.create_task(bench.until(3))
        await asked.wait()
        seen, late = list(looked), bench.queue.lateness
        allowed.set()
        await task
        return seen, late, bench.queue.lateness, [outcome.error for outcome in bench.outcomes]

    assert asyncio.run(scenario()) == ([], 0.0, 0.0, [None, None, None])
