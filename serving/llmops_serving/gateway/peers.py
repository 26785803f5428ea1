"""The other processes that serve the same keys: workers beside this one, and other replicas with theirs.

Every process listens to the load stream of every other. A process that is known to exist and is not heard keeps its
part of every limit, so that nobody gives it away twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson
import structlog

from llmops import names
from llmops_serving.gateway.gateway import Gateway

log = structlog.get_logger(__name__)

SILENCE_SECONDS = 3.0
RETRY_SECONDS = 0.2


@dataclass(slots=True)
class _Source:
    """One stream; `processes` speak on it. `names` are those that have spoken of a key."""

    url: str
    socket: Path | None
    processes: int
    heard: bool = False
    names: set[str] = field(default_factory=set)
    task: asyncio.Task[None] | None = None


class Peers:
    """Listens to a changing set of processes and tells the gateway's ledger what they say."""

    def __init__(self, gateway: Gateway, *, beside: Iterable[Path] = (), workers: int = 1) -> None:
        """`beside` are the sockets of the other workers of this pod; other pods are taken to have as many `workers`."""
        self._gateway = gateway
        self._workers = workers
        self._sources: dict[str, _Source] = {}
        for socket in beside:
            self._add(_Source("http://worker", socket, 1), str(socket))
        self._count()

    def update(self, addresses: set[str]) -> None:
        """The internal addresses, `host:port`, of all other replicas are these from now on."""
        for name in [name for name, source in self._sources.items() if source.socket is None]:
            if name not in addresses:
                self._drop(name)
        for address in addresses:
            if address not in self._sources:
                self._add(_Source(f"http://{address}", None, self._workers), address)
        self._count()

    async def close(self) -> None:
        """Stop listening."""
        tasks = [source.task for source in self._sources.values() if source.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _add(self, source: _Source, name: str) -> None:
        self._sources[name] = source
        source.task = self._gateway.loop.create_task(self._listen(source))

    def _drop(self, name: str) -> None:
        source = self._sources.pop(name)
        if source.task is not None:
            source.task.cancel()
        self._gateway.ledger.forget(source.names)

    def _count(self) -> None:
        known = self._sources.values()
        processes = 1 + sum(source.processes for source in known)
        heard = 1 + sum(source.processes for source in known if source.heard)
        self._gateway.ledger.gather(processes=processes, heard=heard, now=self._gateway.now())

    async def _listen(self, source: _Source) -> None:
        """Follow one stream until cancelled."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
        while True:
            connector = aiohttp.UnixConnector(str(source.socket)) if source.socket else aiohttp.TCPConnector()
            try:
                async with (
                    aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
                    session.get(f"{source.url}{names.LOAD_STREAM}?keys=1") as response,
                ):
                    response.raise_for_status()
                    await self._follow(source, response)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as problem:
                if source.heard:
                    log.warning("peer lost", url=source.url, problem=repr(problem)[:200])
            source.heard = False
            self._gateway.ledger.forget(source.names)
            source.names.clear()
            self._count()
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, source: _Source, response: aiohttp.ClientResponse) -> None:
        source.processes = int(orjson.loads(await response.content.readline())["processes"])
        async for raw in response.content:
            line = orjson.loads(raw)
            if "key" in line:
                source.names.add(line["process"])
                self._gateway.ledger.heard(line, self._gateway.now())
            elif "heartbeat" in line and not source.heard:
                source.heard = True  # the lines of every key the process knows have come before
                self._count()
