"""The life of one operator process: become the leader, fill the mirror, work, and hand over."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kopf
import structlog
from kopf._cogs.clients.watching import WatchingError  # not exported, and raised by the public kopf.operator

from llmops import names
from llmops.config import Config
from llmops.shell import backups, gateways, handlers, health, reconcile, tuning
from llmops.shell.backup_series import BackupSeries
from llmops.shell.budgets import Budgets
from llmops.shell.cluster import ApiError, Cluster
from llmops.shell.connection import Connection
from llmops.shell.costs import Costs
from llmops.shell.leadership import Leadership
from llmops.shell.metrics import Metrics
from llmops.shell.mirror import Key, Mirror
from llmops.shell.prometheus import Prometheus
from llmops.shell.resources import (
    CONFIG_MAP,
    CRON_JOB,
    DEPLOYMENT,
    FINE_TUNE_JOB,
    JOB,
    LEADER_WORKER_SET,
    LLM_DEPLOYMENT,
    MODEL_BACKUP,
    NETWORK_POLICY,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    POD_DISRUPTION_BUDGET,
    PROMETHEUS_RULE,
    SERVICE,
)
from llmops.shell.signals import Signals
from llmops.shell.sizes import Sizes
from llmops.shell.traffic import Traffic
from llmops.shell.troubles import Troubles
from llmops.shell.wakeups import Outcome, Wakeups
from llmops.shell.world import World

log = structlog.get_logger()

LEASE_NAME = "llmops-operator"
# A Lease that is not given back costs ten seconds. Renewed up to two before, it is surely held for five more.
WRITTEN_SECONDS = 4.0
CHILDREN = (
    CONFIG_MAP,
    CRON_JOB,
    DEPLOYMENT,
    JOB,
    NETWORK_POLICY,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVICE,
)
OPTIONAL_CHILDREN = (LEADER_WORKER_SET, PROMETHEUS_RULE)
RECONCILERS = {
    LLM_DEPLOYMENT.kind: reconcile.llm_deployment,
    FINE_TUNE_JOB.kind: tuning.fine_tune_job,
    MODEL_BACKUP.kind: backups.model_backup,
}


@dataclass(frozen=True)
class Identity:
    """Which process this is, in which pod (empty: in none), and in which namespace its Lease lies."""

    name: str
    namespace: str
    version: str
    pod: str = ""


class Process:
    """One operator. `stop` is set by whoever wants it to end."""

    def __init__(self, connection: Connection, config: Config, identity: Identity, *, health_port: int) -> None:
        self._connection, self._config, self._identity = connection, config, identity
        self._health_port = health_port
        self._metrics = Metrics(identity.version)
        self._ready = asyncio.Event()  # a standby is ready, too: it takes over when it must
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Run until stopped or deposed.

        Raises:
            Deposed: another process may act now; this one must end.
        """
        lease_cluster = Cluster(self._connection, connections=2, observe_call=self._metrics.observe_call)
        leadership = Leadership(
            lease_cluster,
            namespace=self._identity.namespace,
            name=LEASE_NAME,
            identity=self._identity.name,
            pod=self._identity.pod,
            clock=time.monotonic,
            jitter=random.random,
        )
        cluster = Cluster(self._connection, observe_call=self._metrics.observe_call, may_write=leadership.check)
        world, wakeups, signals = self._wire(cluster, leadership)
        runner = await health.serve(
            self._health_port,
            registry=self._metrics.registry,
            lateness=lambda: wakeups.lateness,
            ready=self._ready.is_set,
        )
        try:
            if await self._unless_stopped(leadership.acquire(standing_by=self._ready.set)):
                self._ready.clear()
                self._metrics.leading(active=True)
                await self._lead(leadership, cluster, world, wakeups, signals)
        finally:
            self._metrics.leading(active=False)
            if await cluster.written(WRITTEN_SECONDS) and await lease_cluster.written(WRITTEN_SECONDS):
                await leadership.release()
            else:
                log.warning("lease not released while a write is under way; the next leader waits for it to expire")
            await signals.close()
            await world.traffic.close()
            await runner.cleanup()
            await cluster.close()
            await lease_cluster.close()

    def _wire(self, cluster: Cluster, leadership: Leadership) -> tuple[World, Wakeups[Key], Signals]:
        async def work(key: Key) -> timedelta | None:
            return await RECONCILERS[key.kind](key, world)

        wakeups = Wakeups[Key](
            work,
            workers=self._config.workers,
            done=self._done,
            clock=time.monotonic,
            jitter=random.random,
            before=leadership.until_sure,
        )

        def wake(key: Key) -> None:
            if key.kind in RECONCILERS:
                wakeups.wake(key)
            elif key.kind == names.LABEL_BACKUP:  # what its points are told by has changed
                for child in mirror.children(Key(LLM_DEPLOYMENT.kind, key.namespace, key.name)):
                    if child["kind"] == MODEL_BACKUP.kind:
                        wakeups.wake(Key(MODEL_BACKUP.kind, key.namespace, child["metadata"]["name"]))

        def woken_by_load(model: str) -> None:
            namespace, _, name = model.partition("/")
            key = Key(LLM_DEPLOYMENT.kind, namespace, name)
            if (after := sizes.moved(key)) is not None:
                wakeups.wake(key, after=after.total_seconds())
            costs.busy(key, sizes.in_flight(key))

        mirror = Mirror(
            cluster,
            CHILDREN,
            optional=OPTIONAL_CHILDREN,
            written_by_users=(MODEL_BACKUP,),
            namespaces=self._config.namespaces,
            on_change=wake,
            jitter=random.random,
        )
        traffic = Traffic(_prometheus(self._config), wake, now=_now, jitter=random.random)
        self._budgets = Budgets(cluster, self._config.gateway.namespace)
        signals = Signals(on_change=woken_by_load, on_usage=self._budgets.heard)
        sizes = Sizes(signals, _now)
        self._metrics.watch_queue(lambda: wakeups.depth, lambda: wakeups.lateness)
        self._wake = wake
        costs = Costs(time.monotonic)
        troubles = Troubles()
        self._metrics.registry.register(costs)
        self._metrics.registry.register(troubles)
        points = BackupSeries()
        self._metrics.registry.register(points)
        world = World(cluster, mirror, sizes, costs, traffic, points, troubles, self._config, _now)
        return world, wakeups, signals

    async def _lead(
        self, leadership: Leadership, cluster: Cluster, world: World, wakeups: Wakeups[Key], signals: Signals
    ) -> None:
        """Everything the leader does, side by side; the first failure of any part ends the process."""
        gateway = self._config.gateway
        parts = [
            leadership.keep(),
            world.mirror.run(),
            world.traffic.run(),
            gateways.follow(
                cluster, gateway.namespace, names.gateway_internal(gateway.service), signals.update_gateways
            ),
            self._budgets.keep(),
            self._work(cluster, world, wakeups),
            self.stop.wait(),
        ]
        tasks = [asyncio.create_task(part) for part in parts]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()

    async def _work(self, cluster: Cluster, world: World, wakeups: Wakeups[Key]) -> None:
        """Look at objects only once the mirror is whole: children not seen yet must not be taken for missing."""
        await world.mirror.ready.wait()
        while not await self._served(cluster):
            log.warning("waiting for the CustomResourceDefinitions of llmops.dev")
            await asyncio.sleep(2)
        log.info("working", namespaces=list(self._config.namespaces) or "all")
        worker = asyncio.create_task(wakeups.run())
        watcher = asyncio.create_task(self._listen())
        try:
            done, _ = await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            worker.cancel()
            watcher.cancel()
            await asyncio.gather(worker, watcher, return_exceptions=True)

    async def _listen(self) -> None:
        """Hear of our kinds through kopf until cancelled.

        An error that the API server sends into a watch ends kopf; listening again costs a list of each kind.
        """
        while True:
            try:
                await self._kopf()
            except WatchingError as error:
                log.warning("listening again", error=str(error))
                await asyncio.sleep(1)
            else:
                return

    async def _kopf(self) -> None:
        """Run kopf's tasks until one ends, and end them.

        `kopf.operator` takes the process for its own: it takes the signals, and at its end waits five seconds for every
        task that began after it, load streams and writes among them, and cancels those.
        """
        tasks = await kopf.spawn_tasks(
            registry=handlers.registry(self._wake),
            settings=handlers.settings(),
            identity=handlers.identity(self._identity.name),
            memories=handlers.Forgetful(),
            clusterwide=not self._config.namespaces,
            namespaces=self._config.namespaces,
            ready_flag=self._ready,
        )
        self.heed_signals()
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    def heed_signals(self) -> None:
        """Stop at SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop.set)

    @staticmethod
    async def _served(cluster: Cluster) -> bool:
        try:
            return all([await cluster.serves(resource) for resource in handlers.WATCHED])
        except ApiError as error:
            log.warning("the API server cannot be asked", error=str(error))
            return False

    async def _unless_stopped(self, waiting: Coroutine[None, None, None]) -> bool:
        task, stop = asyncio.create_task(waiting), asyncio.create_task(self.stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
            return True
        task.cancel()
        return False

    def _done(self, outcome: Outcome[Key]) -> None:
        self._metrics.observe_reconcile(outcome)
        error = outcome.error
        if isinstance(error, ApiError | TimeoutError):
            log.warning("reconcile will be retried", key=str(outcome.key), error=str(error) or type(error).__name__)
        elif error is not None:
            log.error("reconcile failed", key=str(outcome.key), exc_info=error)


def _prometheus(config: Config) -> Prometheus | None:
    where = config.prometheus
    credentials = Path(where.credentials) if where.credentials else None
    return Prometheus(where.url, credentials=credentials) if where.url else None


def _now() -> datetime:
    return datetime.now(UTC)
