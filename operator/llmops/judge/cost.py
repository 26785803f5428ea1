"""What serving costs, in whole decimals: money is not a floating-point number."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

CENT = Decimal("0.01")


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
