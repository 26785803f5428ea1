"""What every deployment has cost since this process began, as Prometheus series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmops.judge.cost import SECONDS_PER_HOUR, Meter, Use, per_hour
from llmops.shell.mirror import Key

LABELS = ("namespace", "deployment", "profile")


@dataclass
class Account:
    """One deployment's: where it runs, what that costs, what it used."""

    profile: str
    price_per_hour: Decimal | None
    use: Use
    meter: Meter = field(default_factory=Meter)


class Costs(Collector):
    """The accounts of all deployments; added up when somebody looks or scrapes, never by a timer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._accounts: dict[Key, Account] = {}

    def see(self, key: Key, *, profile: str, price_per_hour: str | None, use: Use) -> None:
        """What a look at a deployment found. Another profile is another account: its hours have another price."""
        price = None if price_per_hour is None else Decimal(price_per_hour)
        account = self._accounts.get(key)
        if account is None or (account.profile, account.price_per_hour) != (profile, price):
            account = self._accounts[key] = Account(profile, price, use)
        account.use = use
        account.meter.see(self._clock(), use)

    def busy(self, key: Key, in_flight: int | None) -> None:
        """The load of a deployment has changed, and nothing else."""
        if account := self._accounts.get(key):
            account.use = replace(account.use, in_flight=in_flight)
            account.meter.see(self._clock(), account.use)

    def forget(self, key: Key) -> None:
        """The object is gone; its series end."""
        self._accounts.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        """The series as of now."""
        now = self._clock()
        seconds = CounterMetricFamily(
            "llmops_accelerator_seconds", "Accelerator time occupied by engine pods.", labels=(*LABELS, "state")
        )
        cost = CounterMetricFamily("llmops_cost", "Cost of it, in the currency of the profile's price.", labels=LABELS)
        saved = CounterMetricFamily(
            "llmops_cost_saved", "What one replica would have cost while the model slept.", labels=LABELS
        )
        hourly = GaugeMetricFamily("llmops_cost_per_hour", "Cost of an hour of the pods there are.", labels=LABELS)
        for key, account in self._accounts.items():
            account.meter.advance(now)
            labels = [key.namespace, key.name, account.profile]
            for state, value in account.meter.seconds.items():
                seconds.add_metric([*labels, str(state)], value)
            if account.price_per_hour is None:
                continue
            price = float(account.price_per_hour) / SECONDS_PER_HOUR
            cost.add_metric(labels, sum(account.meter.seconds.values()) * price)
            saved.add_metric(labels, account.meter.saved_seconds * price)
            hourly.add_metric(
                labels, float(per_hour(account.use.pods, account.use.accelerators, account.price_per_hour))
            )
        yield from (seconds, cost, saved, hourly)
