"""What the operator says of itself to Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from llmops.shell.mirror import Key
from llmops.shell.wakeups import Outcome

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The operator's own series, in a registry that the process serves."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = Counter(
            "llmops_operator_reconciles", "Looks at one object.", ("kind", "outcome"), registry=self.registry
        )
        self._seconds = Histogram(
            "llmops_operator_reconcile_seconds",
            "Duration of one look.",
            ("kind",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._calls = Counter(
            "llmops_operator_api_calls",
            "Requests to the Kubernetes API; code 0 is a transport failure.",
            ("verb", "resource", "code"),
            registry=self.registry,
        )
        self._depth = Gauge("llmops_operator_queue_depth", "Objects due or being looked at.", registry=self.registry)
        self._late = Gauge(
            "llmops_operator_queue_lateness_seconds", "Lateness of the oldest due object.", registry=self.registry
        )
        self._leader = Gauge("llmops_operator_leader", "1 while this process acts.", registry=self.registry)
        Info("llmops_operator_build", "Version.", registry=self.registry).info({"version": version})

    def observe_call(self, verb: str, plural: str, status: int) -> None:
        """Count one request to the API server."""
        self._calls.labels(verb, plural, str(status)).inc()

    def observe_reconcile(self, outcome: Outcome[Key]) -> None:
        """Count one look at an object."""
        name = "success" if outcome.error is None else type(outcome.error).__name__
        self._reconciles.labels(outcome.key.kind, name).inc()
        self._seconds.labels(outcome.key.kind).observe(outcome.seconds)

    def watch_queue(self, depth: Callable[[], float], lateness: Callable[[], float]) -> None:
        """Read the queue when asked for metrics, not on every change of it."""
        self._depth.set_function(depth)
        self._late.set_function(lateness)

    def leading(self, *, active: bool) -> None:
        """Whether this process holds the Lease."""
        self._leader.set(active)
