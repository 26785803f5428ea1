"""What Prometheus says about the traffic of every deployment that watches for drift, asked beside the reconciles.

A reconcile leaves its question here and reads the last answer from memory, so that a Prometheus that hangs delays no
replica. Questions are asked at the pace at which rules are evaluated, few at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from llmops.api.drift import WINDOW_SECONDS, Signal, Watched, Window, evaluation_seconds
from llmops.judge.drift import evidence as reading
from llmops.judge.drift import history
from llmops.judge.drift.look import Evidence
from llmops.judge.drift.replay import Stretch
from llmops.shell.mirror import Key
from llmops.shell.prometheus import Prometheus, Silent
from llmops.shell.wakeups import Outcome, Wakeups

log = structlog.get_logger()

WORKERS = 4  # Prometheus serves people, too
LEAST_PAUSE_SECONDS = 5


@dataclass(frozen=True)
class Question:
    """What a deployment needs to know: its recorded series, and the history of signals that learn, from when on."""

    watched: Watched
    window: Window
    learning: Mapping[Signal, datetime] = field(default_factory=dict)


@dataclass
class _Asked:
    question: Question
    answer: Evidence | None = None
    windows: dict[Signal, tuple[Stretch, ...]] = field(default_factory=dict)
    learned_at: float | None = None


class Traffic:
    """Questions and their last answers. `on_answer(key)` is called when there is a new one; it must not block."""

    def __init__(
        self,
        prometheus: Prometheus | None,
        on_answer: Callable[[Key], None],
        *,
        now: Callable[[], datetime],
        jitter: Callable[[], float],
        least_pause_seconds: float = LEAST_PAUSE_SECONDS,
    ) -> None:
        """Without a Prometheus every answer is that there is none."""
        self._least_pause_seconds = least_pause_seconds
        self._prometheus, self._on_answer, self._now = prometheus, on_answer, now
        self._asked: dict[Key, _Asked] = {}
        self._wakeups = Wakeups[Key](self._look, workers=WORKERS, done=self._done, clock=time.monotonic, jitter=jitter)

    def evidence(self, key: Key, question: Question) -> Evidence | None:
        """The last answer; None until there is one. The question is asked from now on, at its own pace."""
        if self._prometheus is None:
            return Evidence(silent=True)
        asked = self._asked.get(key)
        if asked is None or asked.question != question:
            self._asked[key] = asked = _Asked(question, asked.answer if asked else None)
            self._wakeups.wake(key)
        return asked.answer

    def forget(self, key: Key) -> None:
        """Ask no more about it."""
        self._asked.pop(key, None)

    async def run(self) -> None:
        """Ask until cancelled."""
        await self._wakeups.run()

    async def close(self) -> None:
        """Close the connections."""
        if self._prometheus is not None:
            await self._prometheus.close()

    async def _look(self, key: Key) -> timedelta | None:
        asked = self._asked.get(key)
        if asked is None or self._prometheus is None:
            return None
        before = asked.answer
        try:
            asked.answer = await self._answer(self._prometheus, asked)
        except Silent as problem:
            asked.answer = Evidence(silent=True)
            if before is None or not before.silent:
                log.warning("Prometheus does not answer", key=str(key), problem=str(problem))
        self._on_answer(key)
        return timedelta(seconds=max(self._least_pause_seconds, evaluation_seconds(asked.question.window)))

    async def _answer(self, prometheus: Prometheus, asked: _Asked) -> Evidence:
        question = asked.question
        of = {"namespace": question.watched.namespace, "model": question.watched.model}
        samples = await prometheus.query(reading.query(**of))
        pause = WINDOW_SECONDS[question.window]
        if question.learning and (asked.learned_at is None or time.monotonic() - asked.learned_at >= pause):
            for signal, start in question.learning.items():
                expression = history.query(signal, window=question.window, **of)
                series = await prometheus.range(expression, *history.moments(start, self._now(), question.window))
                asked.windows[signal] = tuple(history.windows(signal, series, question.window))
            asked.learned_at = time.monotonic()
        return Evidence(samples=tuple(samples), windows=dict(asked.windows))

    def _done(self, outcome: Outcome[Key]) -> None:
        if outcome.error is not None:
            log.error("looking at traffic failed", key=str(outcome.key), exc_info=outcome.error)
