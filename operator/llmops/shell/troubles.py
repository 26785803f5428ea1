"""What is not as it should be, as Prometheus series: alerts on conditions need no watcher of the Kubernetes API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmops.api.conditions import ConditionType, Reason
from llmops.api.meta import Condition
from llmops.shell.mirror import Key


class Troubles(Collector):
    """`llmops_condition` is 1 for every condition worth an alert: at most three of a deployment."""

    def __init__(self) -> None:
        self._found: dict[Key, tuple[Condition, ...]] = {}

    def see(self, key: Key, conditions: Sequence[Condition]) -> None:
        """The conditions as they are reported now."""
        self._found[key] = tuple(filter(_counts, conditions))

    def forget(self, key: Key) -> None:
        """The object is gone; its series end."""
        self._found.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        """The series as of now."""
        found = GaugeMetricFamily(
            "llmops_condition",
            "1 while a deployment is not ready, is being rolled out, or sees its traffic drift; with the reason.",
            labels=("namespace", "model", "type", "reason"),
        )
        for key, conditions in self._found.items():
            for each in conditions:
                found.add_metric([key.namespace, key.name, each.type, each.reason], 1)
        yield found


def _counts(condition: Condition) -> bool:
    match condition.type:
        case ConditionType.READY:
            return condition.status == "False"
        case ConditionType.PROGRESSING:
            return condition.reason != Reason.UP_TO_DATE
        case ConditionType.DRIFTED:
            return condition.status == "True"
    return False
