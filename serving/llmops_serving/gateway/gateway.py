"""All that one gateway process knows: models, pods, requests under way. The protocol classes ask it; tests build it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmops_serving.gateway import text
from llmops_serving.gateway.audit import AuditLog
from llmops_serving.gateway.exchange import Exchange
from llmops_serving.gateway.keys import Keyring
from llmops_serving.gateway.lane import Lane
from llmops_serving.gateway.ledger import Ledger
from llmops_serving.gateway.load import Load, LoadStream
from llmops_serving.gateway.metrics import Metrics, Series
from llmops_serving.gateway.table import Endpoint, Model, Table
from llmops_serving.gateway.trace import Tracer
from llmops_serving.gateway.upstream import IDLE_SECONDS, Pod

if TYPE_CHECKING:
    from llmops_serving.gateway.proxy import ClientConnection

SWEEP_SECONDS = 1.0
LEDGER_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of one process. Times in seconds, sizes in bytes."""

    max_body_bytes: int = 64 * 1024 * 1024
    max_buffered_bytes: int = 1024 * 1024 * 1024
    head_seconds: float = 10.0
    body_grace_seconds: float = 30.0
    body_bytes_per_second: int = 16 * 1024
    idle_seconds: float = 75.0
    slow_reader_seconds: float = 60.0
    stall_seconds: float = 120.0


class Gateway:
    """The state of one process, on one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: Options | None = None,
        wall_clock: Callable[[], float] = time.time,
        process: str = "",
    ) -> None:
        """A gateway that knows no model; `ready` once the first table was applied."""
        self.loop = loop
        self.now = time.monotonic  # the loop's own clock has a resolution of a millisecond
        self.options = options or Options()
        self.wall_clock = wall_clock
        self.table = Table()
        self.lanes: dict[str, Lane] = {}
        self.metrics = Metrics()
        self.connections: set[ClientConnection] = set()
        self.exchanges: set[Exchange] = set()
        self.streams: set[LoadStream] = set()
        self.buffered = 0
        self.ready = False
        self.draining = False
        self.on_wait: Callable[[Lane], None] = lambda _lane: None
        self.on_pod: Callable[[Pod], None] = lambda _pod: None
        self.audit: AuditLog | None = None
        self.tracer: Tracer | None = None
        self.ledger = Ledger(process, wall_clock)
        self._pods: dict[str, Pod] = {}

    def admit_keys(self, keyring: Keyring) -> None:
        """Ask for one of these keys from now on."""
        self.ledger.admit(keyring, self.now())

    def look_at(self, answer: bytes, *, json_wanted: bool, series: Series) -> None:
        """Count what a sampled answer is like, beside the loop: judging a long text takes milliseconds."""
        looking = self.loop.run_in_executor(None, functools.partial(text.signals, answer, json_wanted=json_wanted))
        looking.add_done_callback(lambda seen: series.looked_at(seen.result()))

    def apply(self, table: Table) -> None:
        """Serve what this table says from now on. Requests under way end where they are."""
        self.table = table
        self.ready = True
        in_use: set[str] = set()
        for key, model in table.models.items():
            lane = self.lanes.get(key)
            if lane is None:
                lane = self.lanes[key] = Lane(model)
                self.touched(lane)
            lane.model = model
            in_use.update(endpoint.address for endpoint in model.endpoints)
            earlier = {pod.address for pod in lane.pods}
            pods = [self._pod(endpoint) for endpoint in model.endpoints]
            lane.pods = [pod for pod in pods if pod.usable]
            lane.starting = [pod for pod in pods if not pod.usable]
            for pod in lane.pods:
                if pod.address not in earlier:
                    self.on_pod(pod)
            lane.fail_waiting()
        for key in [key for key in self.lanes if key not in table.models]:
            self._remove(key)
        for address in [address for address in self._pods if address not in in_use]:
            self._pods.pop(address).drain()
        self.metrics.forget(table.models)
        now = self.now()
        for lane in self.lanes.values():
            lane.release(now)

    def found_ready(self, lane: Lane, pod: Pod) -> None:
        """A starting pod answers, or one that could not be reached, before the cluster has noticed: use it now."""
        pod.succeeded()
        if pod in lane.starting:
            pod.proven = pod.usable = True
            lane.starting.remove(pod)
            lane.pods.append(pod)
            self.on_pod(pod)
        lane.release(self.now())

    def _pod(self, endpoint: Endpoint) -> Pod:
        address = endpoint.address
        pod = self._pods.get(address)
        if pod is None or pod.name != endpoint.pod:  # another pod may get the address of one that is gone
            if pod is not None:
                pod.drain()
            pod = self._pods[address] = Pod(endpoint.host, endpoint.port, address, endpoint.pod)
        # What the pod itself said holds until the cluster has caught up with it.
        pod.proven = pod.proven and not endpoint.ready
        if endpoint.ready and not pod.usable:
            pod.succeeded()
        pod.usable = endpoint.ready or pod.proven
        pod.recorded(endpoint.adapters)
        return pod

    def _remove(self, key: str) -> None:
        lane = self.lanes.pop(key)
        lane.model = Model(lane.model.namespace, lane.model.name, lane.model.served, failure="It was deleted.")
        lane.pods = []
        lane.fail_waiting()

    def started(self, exchange: Exchange) -> None:
        """A request is under way."""
        self.exchanges.add(exchange)

    def ended(self, exchange: Exchange, lane: Lane, now: float) -> None:
        """A request is over; those that wait may have its place."""
        self.exchanges.discard(exchange)
        self.touched(lane)
        if lane.waiting:
            lane.release(now)

    def touched(self, lane: Lane) -> None:
        """The model's load changed."""
        for stream in self.streams:
            stream.touch(lane.load)

    def waits(self, lane: Lane) -> None:
        """A request waits for the model."""
        self.touched(lane)
        self.on_wait(lane)

    def loads(self) -> Iterable[Load]:
        """The load of every model."""
        return [lane.load for lane in self.lanes.values()]

    def gauges(self) -> list[tuple[str, str, dict[str, float]]]:
        """Levels, for the metrics page."""
        labelled = {
            f'namespace="{lane.model.namespace}",model="{lane.model.name}"': lane for lane in self.lanes.values()
        }
        return [
            ("in_flight", "Requests that engines work on.", {k: v.load.in_flight for k, v in labelled.items()}),
            ("held", "Requests that wait for a replica.", {k: len(v.waiting) for k, v in labelled.items()}),
            ("ready_pods", "Pods that requests go to.", {k: len(v.pods) for k, v in labelled.items()}),
            ("connections", "Open client connections.", {"": len(self.connections)}),
            ("peers_heard", "Other processes whose keys' use is heard.", {"": self.ledger.crowd.heard - 1}),
            ("buffered_bytes", "Request bodies in memory.", {"": self.buffered}),
        ]

    def sweep(self) -> None:
        """Once a second: time-outs, idle connections."""
        now = self.now()
        if self.audit is not None:
            self.audit.flush()
        for exchange in list(self.exchanges):
            exchange.tick(now)
        for connection in list(self.connections):
            connection.tick(now)
        for pod in self._pods.values():
            if pod.idle:
                pod.close_idle(now - IDLE_SECONDS)
            if pod.without:
                pod.believe(now)
        for lane in self.lanes.values():
            lane.release(now)

    async def keep_ledger(self) -> None:
        """Tell those who listen about the keys, until cancelled."""
        while True:
            await asyncio.sleep(LEDGER_SECONDS)
            self.ledger.tick(self.streams, self.now())

    async def keep_time(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep()

    async def drain(self, seconds: float) -> int:
        """Finish what is under way, take nothing new; returns how many requests were cut after `seconds`."""
        self.draining = True
        self.ready = False
        for connection in list(self.connections):
            connection.drain()
        deadline = self.now() + seconds
        while self.connections and self.now() < deadline:  # noqa: ASYNC110 - happens once, costs the hot path nothing
            await asyncio.sleep(0.02)
        return len(self.exchanges)
