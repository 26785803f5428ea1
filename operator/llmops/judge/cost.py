"""What serving costs, in whole decimals: money is not a floating-point number."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

CENT = Decimal("0.01")
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Requests:
    """A load of requests, and what one of them costs.

    Attributes:
        per_hour: How many there are in an hour.
        seconds: How long each keeps the accelerator.
        price_per_second: Of the accelerator while it works.
        price_per_request: What is paid for each, whatever it takes.
    """

    per_hour: Decimal
    seconds: Decimal
    price_per_second: Decimal
    price_per_request: Decimal = Decimal(0)

    @property
    def cost_per_hour(self) -> Decimal:
        """Requests x (seconds x price of a second + price of a request)."""
        return self.per_hour * (self.seconds * self.price_per_second + self.price_per_request)

    def cost(self, *, days: int, hours_per_day: int) -> Decimal:
        """Over so many days of so many hours."""
        return self.cost_per_hour * days * hours_per_day

    def disagreement(self, stated_per_hour: Decimal) -> str:
        """A sentence when a stated cost per hour is not the computed one, to the cent; empty when it is.

        The usual mistake is in the rate, so the rate that would fit the stated cost is told.
        """
        computed = self.cost_per_hour.quantize(CENT)
        if computed == stated_per_hour.quantize(CENT):
            return ""
        fitting = stated_per_hour / (self.seconds * self.price_per_second + self.price_per_request)
        return (
            f"{self.per_hour} requests per hour cost {computed} per hour and not {stated_per_hour.quantize(CENT)}, "
            f"which would be {fitting.quantize(Decimal(1))} requests per hour."
        )


class State(StrEnum):
    """What an accelerator that is paid for does."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"


@dataclass(frozen=True)
class Use:
    """What a deployment occupies, from one look to the next.

    Attributes:
        pods: Engine pods that exist; each of them holds its accelerators, ready or not.
        ready: Those of them that answer.
        in_flight: Requests they answer now; `None` when nobody knows, which counts as idle: a pod's work must be shown.
        accelerators: Of one pod; a profile without a device counts the pod itself.
        asleep: Nobody is wanted, and a request would wake the model.
    """

    pods: int
    ready: int
    in_flight: int | None
    accelerators: int
    asleep: bool

    def accelerators_by_state(self) -> dict[State, int]:
        """How many accelerators load, idle and work."""
        busy = min(self.ready, self.in_flight or 0)
        pods = {State.LOADING: self.pods - self.ready, State.IDLE: self.ready - busy, State.BUSY: busy}
        return {state: max(0, count) * self.accelerators for state, count in pods.items()}


@dataclass
class Meter:
    """Accelerator-seconds of one deployment since the process began, each use held until the next is seen.

    `saved_seconds` are those of the one replica that `minReplicas: 1` would have kept while the model slept.
    """

    seconds: dict[State, float] = field(default_factory=lambda: dict.fromkeys(State, 0.0))
    saved_seconds: float = 0.0
    _use: Use | None = None
    _at: float = 0.0

    def see(self, now: float, use: Use) -> None:
        """From `now` (seconds of a clock that never goes back) on, this is what is occupied."""
        self.advance(now)
        self._use, self._at = use, now

    def advance(self, now: float) -> None:
        """Account for the time since the last look."""
        if self._use is None:
            return
        elapsed = max(0.0, now - self._at)
        for state, count in self._use.accelerators_by_state().items():
            self.seconds[state] += elapsed * count
        if self._use.asleep:
            self.saved_seconds += elapsed * self._use.accelerators
        self._at = now


def per_hour(pods: int, accelerators: int, price_per_hour: Decimal) -> Decimal:
    """What so many pods cost in an hour."""
    return pods * accelerators * price_per_hour
