"""The last decision about every model's size, and whether a new measurement of its load changes it.

A busy gateway reports twenty times a second. Most reports change nothing, and that is decided here, from memory,
with the same pure function that a reconcile uses and without a request to the API server.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from llmops.judge import scaling
from llmops.judge.load import Load
from llmops.shell.mirror import Key


class Loads(Protocol):
    """Who knows how much is asked of a model: the gateways' load streams."""

    def load(self, model: str) -> Load | None:
        """The load of `namespace/name`; `None` when nobody knows."""

    def forget(self, model: str) -> None:
        """Drop what is remembered of a model that no longer exists."""


class Sizes:
    """Decisions by key, kept in the process only: after a restart every stabilization window starts anew."""

    def __init__(self, loads: Loads, now: Callable[[], datetime]) -> None:
        self._loads, self._now = loads, now
        self._last: dict[Key, scaling.Decision | None] = {}

    def decide(
        self, key: Key, limits: scaling.Limits, scale: scaling.Scale, told: scaling.Change | None = None
    ) -> scaling.Decision:
        """How many replicas there should be now, of what was just observed.

        `told` is the last change that the object's status tells of, for a process that remembers none.
        """
        last = self._last.get(key)
        memory = last.memory if last else scaling.Memory(last=told)
        decision = scaling.decide(limits, self._loads.load(_model(key)), scale, self._now(), memory)
        self._last[key] = decision
        return decision

    def moved(self, key: Key) -> timedelta | None:
        """When to look at a model whose load has changed: at once, later, or not for that (`None`)."""
        if key not in self._last:
            return timedelta(0)
        last = self._last[key]
        if last is None:
            return None
        decision = self.decide(key, last.inputs.limits, last.inputs.scale)
        if decision.changed or decision.condition != last.condition:
            return timedelta(0)
        return decision.again

    def hold(self, key: Key) -> None:
        """The object cannot be acted on: its load is no reason to look at it."""
        self._last[key] = None

    def in_flight(self, key: Key) -> int | None:
        """Requests that the engines of a model answer, as of the last decision; `None` when nobody knows."""
        last = self._last.get(key)
        return last.inputs.load.in_flight if last and last.inputs.load else None

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._last.pop(key, None)
        self._loads.forget(_model(key))


def _model(key: Key) -> str:
    return f"{key.namespace}/{key.name}"
