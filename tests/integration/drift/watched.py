"""Everything that watches a deployment's traffic, as real processes: only time is short, a window is a minute."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.apiserver.operating import Operator, ProxiedPlane, audited_plane
from tests.integration.conftest import free_port
from tests.integration.drift.live import (
    MODEL,
    NAMESPACE,
    Load,
    Prometheus,
    Request,
    gateway,
    prometheus,
    recorded,
    sidecar,
    until,
)

Json = dict[str, Any]
RUNBOOKS = "https://wiki.example.com/runbooks"


@dataclass
class Rig:
    plane: ProxiedPlane
    load: Load
    servers: list[Prometheus]
    home: Path
    scraped: str

    def operate(self, name: str) -> None:
        """Start an operator; it asks the first Prometheus."""
        settings = {"prometheus": {"url": self.servers[0].url}, "runbooks": RUNBOOKS}
        self.operator = Operator(self.plane, self.home, name=name, port=free_port(), settings=settings)

    def stop(self) -> None:
        """End the operator."""
        self.operator.stop()

    def live(self, kind: str, name: str) -> Json:
        found: Json = json.loads(self.plane.kubectl("get", kind, name, "-n", NAMESPACE, "-o", "json"))
        return found

    def drifted(self) -> Json:
        conditions = self.live("llmdeployment", MODEL).get("status", {}).get("conditions", [])
        return next((dict(each) for each in conditions if each["type"] == "Drifted"), {})

    def until(self, reason: str) -> Json:
        found: Json = until(
            lambda: each if (each := self.drifted()).get("reason") == reason else None, f"Drifted with reason {reason}"
        )
        return found

    def apply(self, manifest: Json) -> None:
        self.plane.kubectl("apply", "--server-side", "--field-manager=user", "-f", "-", stdin=json.dumps(manifest))


def deployment(since: float, persistence_seconds: int) -> Json:
    drift = {
        "baseline": {"since": f"{datetime.fromtimestamp(since, UTC):%Y-%m-%dT%H:%M:%SZ}", "minDays": 0},
        "window": "1m",
        "persistenceSeconds": persistence_seconds,
        "actions": [{"type": "StartFineTune", "fineTuneJob": "tickets"}],
    }
    spec = {"model": {"source": "oci://models/tiny:1"}, "replicas": 1, "drift": drift}
    meta = {"name": MODEL, "namespace": NAMESPACE}
    return {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": spec}


JOB = {
    "apiVersion": "llmops.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "tickets", "namespace": NAMESPACE},
    "spec": {"baseModel": {"source": "hf://o/m"}, "dataset": {"source": "s3://bucket/t.jsonl"}, "suspend": True},
}


@contextmanager
def rigged(home: Path, past: Sequence[Request], *, per_second: int, persistence_seconds: int = 3) -> Iterator[Rig]:
    """All of it, with a deployment that learns from these requests, which came at this rate until now."""
    load = Load()
    with ExitStack() as stack:
        stack.callback(load.stop)
        plane = stack.enter_context(audited_plane(home))
        clients, scraped = stack.enter_context(gateway(home, load.address))
        stack.enter_context(load.sending(clients))
        end = time.time()
        servers = [
            stack.enter_context(
                prometheus(
                    home / f"prometheus-{version}",
                    version,
                    scraped,
                    recorded(past, per_second=per_second, every=2, end=end),
                )
            )
            for version in ("3", "2")
        ]
        stack.enter_context(sidecar(plane, servers))
        built = Rig(plane, load, servers, home, scraped)
        built.operate("operator-0")
        stack.callback(built.stop)
        plane.kubectl("create", "namespace", NAMESPACE)
        built.apply(JOB)
        built.apply(deployment(end - len(past) / per_second, persistence_seconds))
        yield built
