"""How the restore points of every deployment stand, as Prometheus series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmops.api.backup_status import BackupStatus
from llmops.judge import backups
from llmops.shell.mirror import Key

LABELS = ("namespace", "deployment")


@dataclass(frozen=True)
class Standing:
    """One deployment's: its status, its schedule's longest gap, and since when there is a schedule."""

    status: BackupStatus
    interval: timedelta | None
    begun: datetime | None


class BackupSeries(Collector):
    """What the last look at each deployment found."""

    def __init__(self) -> None:
        self._standings: dict[Key, Standing] = {}

    def see(self, key: Key, standing: Standing | None) -> None:
        """What a look at a deployment found; `None` when it is not backed up, or gone: its series end."""
        if standing is None:
            self._standings.pop(key, None)
        else:
            self._standings[key] = standing

    def collect(self) -> Iterator[Metric]:
        """The series as of now."""
        gauges = {
            name: GaugeMetricFamily(f"llmops_backup_{name}", text, labels=LABELS) for name, text in _TEXTS.items()
        }
        by_kind = {
            name: GaugeMetricFamily(f"llmops_backup_{name}", text, labels=(*LABELS, "kind"))
            for name, text in _KIND_TEXTS.items()
        }
        failing = GaugeMetricFamily(
            "llmops_backup_failing",
            "1 while the newest run of a kind is a failure.",
            labels=(*LABELS, "kind", "reason"),
        )
        for key, standing in self._standings.items():
            labels = [key.namespace, key.name]
            for name, value in _values(standing).items():
                if value is not None:
                    gauges[name].add_metric(labels, value)
            for run in standing.status.runs:
                failing.add_metric([*labels, run.kind, run.reason or ""], 1.0 if backups.failed_last(run) else 0.0)
                if run.last_success_time:
                    last = run.last_success_time.timestamp()
                    by_kind["last_success_timestamp_seconds"].add_metric([*labels, run.kind], last)
                if run.seconds is not None:
                    by_kind["duration_seconds"].add_metric([*labels, run.kind], run.seconds)
        yield from (*gauges.values(), *by_kind.values(), failing)


_TEXTS = {
    "point_timestamp_seconds": "Time of the newest restore point.",
    "verified_point_timestamp_seconds": "Time of the newest restore point of which every byte was read again.",
    "bytes": "Size of the newest restore point.",
    "stored_bytes": "What it takes in the repository.",
    "interval_seconds": "Longest time between two backups of the schedule.",
    "schedule_created_timestamp_seconds": "Since when there is a schedule.",
}
_KIND_TEXTS = {
    "last_success_timestamp_seconds": "When a run of this kind last succeeded.",
    "duration_seconds": "How long it took.",
}


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"llmops_backup_{name}", text, labels=(*LABELS, *labels))


def _values(standing: Standing) -> dict[str, float | None]:
    status = standing.status
    return {
        "point_timestamp_seconds": backups.taken(status.point).timestamp() if status.point else None,
        "verified_point_timestamp_seconds": (
            backups.taken(status.verified_point).timestamp() if status.verified_point else None
        ),
        "bytes": status.bytes,
        "stored_bytes": status.stored_bytes,
        "interval_seconds": standing.interval.total_seconds() if standing.interval else None,
        "schedule_created_timestamp_seconds": standing.begun.timestamp() if standing.begun else None,
    }
