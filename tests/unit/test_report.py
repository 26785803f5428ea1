"""What is written as a status, and what becomes of the Events when an API server cuts its answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from aiohttp import web

from llmops.api.meta import Condition
from llmops.shell import report
from llmops.shell.cluster import Cluster
from llmops.shell.connection import Connection
from llmops.shell.report import filled

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LIVE = {
    "apiVersion": "llmops.dev/v1alpha1",
    "kind": "LLMDeployment",
    "metadata": {"name": "support", "namespace": "team-a", "uid": "7e57"},
}
AFTER = [
    Condition(type=kind, status="False", reason=reason, message="why", observed_generation=1, last_transition_time=NOW)
    for kind, reason in (("WeightsReady", "DiskFull"), ("AdaptersReady", "AdapterNotFound"), ("Ready", "CrashLoop"))
]


@dataclass
class Events:
    """The Events of an API server that cuts some of its answers: `kept` or not before, by the number of the write."""

    cuts: dict[int, bool]
    told: dict[str, str] = field(default_factory=dict)
    writes: int = 0

    async def create(self, request: web.Request) -> web.StreamResponse:
        event = await request.json()
        self.writes += 1
        kept = self.cuts.get(self.writes)
        name = event["metadata"]["name"]
        known = name in self.told
        if kept is not False and not known:
            self.told[name] = event["reason"]
        if kept is not None:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"message": "it exists"} if known else event, status=409 if known else 201)

    @contextlib.asynccontextmanager
    async def cluster(self) -> AsyncIterator[Cluster]:
        app = web.Application()
        app.router.add_post("/apis/events.k8s.io/v1/namespaces/team-a/events", self.create)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        cluster = Cluster(Connection(f"http://127.0.0.1:{runner.addresses[0][1]}"))
        try:
            yield cluster
        finally:
            await cluster.close()
            await runner.cleanup()


def test_what_is_empty_is_left_out_of_a_status_at_any_depth() -> None:
    status = {
        "model": {},
        "weights": {"claim": "c", "extra": {}},
        "adapters": [],
        "replicas": 0,
        "said": "",
        "no": False,
    }
    assert filled(status) == {"weights": {"claim": "c"}, "replicas": 0, "said": "", "no": False}


@pytest.mark.parametrize(
    ("cuts", "lost"),
    [
        pytest.param({}, set(), id="every write is answered"),
        pytest.param({1: True}, set(), id="the first is kept, and its answer cut"),
        pytest.param({1: False}, set(), id="the first is cut before it is kept"),
        pytest.param({2: False}, set(), id="so is the second"),
        pytest.param({1: False, 2: False}, {"DiskFull"}, id="an Event that cannot be written costs no other"),
    ],
)
def test_a_cut_answer_costs_no_event_and_none_is_told_twice(cuts: dict[int, bool], lost: set[str]) -> None:
    async def scenario() -> list[str]:
        events = Events(cuts)
        async with events.cluster() as cluster:
            await report.events(cluster, LIVE, [], AFTER, NOW)
        return sorted(events.told.values())

    assert asyncio.run(scenario()) == sorted({each.reason for each in AFTER} - lost)
