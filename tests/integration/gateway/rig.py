"""A gateway and engines in the test's own event loop, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import cast

import httpx
import orjson
import uvloop
from aiohttp import web

from llmops_serving.gateway.gateway import Gateway, Options
from llmops_serving.gateway.internal import application
from llmops_serving.gateway.probe import Prober
from llmops_serving.gateway.proxy import ClientConnection
from llmops_serving.gateway.table import Endpoint, Model, table
from tests.integration.gateway.engine import Engine

DEADLINE_SECONDS = 180.0


@dataclass
class Rig:
    """One gateway; `models` is what it serves, changed through `serve`."""

    gateway: Gateway
    port: int
    internal_port: int
    http: httpx.AsyncClient
    models: dict[str, Model] = field(default_factory=dict)

    def serve(self, *models: Model) -> None:
        """Add or replace models, and tell the gateway."""
        self.models |= {model.key: model for model in models}
        self.gateway.apply(table(self.models.values()))

    def remove(self, key: str) -> None:
        del self.models[key]
        self.gateway.apply(table(self.models.values()))

    def pods(self, name: str, *engines: Engine, ready: bool = True) -> None:
        """From now on the model has these pods."""
        model = self.models[f"default/{name}"]
        self.serve(replace(model, endpoints=tuple(endpoint(engine, ready=ready) for engine in engines)))

    async def chat(self, model: str = "support", **fields: object) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.http.post("/v1/chat/completions", content=orjson.dumps(body))

    async def raw(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own; all that comes back until the gateway closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await reader.read()
        finally:
            writer.close()

    async def metric(self, start: str) -> float:
        """The sum of all samples that begin so."""
        text = (await self.http.get(f"http://127.0.0.1:{self.internal_port}/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start))


def endpoint(engine: Engine, *, ready: bool = True) -> Endpoint:
    return Endpoint("127.0.0.1", engine.port, engine.name, ready=ready)


def model(name: str = "support", *engines: Engine, **fields: object) -> Model:
    return Model("default", name, name, endpoints=tuple(map(endpoint, engines)), **fields)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def engines(count: int = 1) -> AsyncIterator[list[Engine]]:
    started = [await Engine(name=f"engine-{number}").start() for number in range(count)]
    try:
        yield started
    finally:
        for engine in started:
            await engine.stop()


@contextlib.asynccontextmanager
async def rig(*models: Model, options: Options | None = None) -> AsyncIterator[Rig]:
    loop = asyncio.get_running_loop()
    gateway = Gateway(loop, options)
    prober = Prober(gateway)
    server = await loop.create_server(lambda: cast("asyncio.Protocol", ClientConnection(gateway)), "127.0.0.1", 0)
    runner = web.AppRunner(application(gateway, "test"), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    keeping = [loop.create_task(gateway.keep_time()), loop.create_task(gateway.keep_ledger())]
    port = server.sockets[0].getsockname()[1]
    internal = runner.addresses[0][1]
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS, trust_env=False
    ) as http:
        built = Rig(gateway, port, internal, http)
        built.serve(*models)
        try:
            yield built
        finally:
            for task in keeping:
                task.cancel()
            server.close()
            await http.aclose()
            await eventually(lambda: not gateway.connections, "all client connections are gone")
            assert not gateway.exchanges
            assert gateway.buffered == 0
            assert all(lane.load.in_flight == 0 and not lane.waiting for lane in gateway.lanes.values())
            await prober.close()
            await runner.cleanup()


async def eventually(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for a condition with a deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.005)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine on the loop that the gateway uses in production."""
    uvloop.run(scenario())  # type: ignore[arg-type]
