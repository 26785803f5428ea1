"""What the operator's client sends, and what it keeps to itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from llmops.shell.cluster import Cluster, Unavailable
from llmops.shell.connection import Connection

PLAN = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "default", "name": "plan"}}


class Server:
    """Answers when it is told to, and counts the requests."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.requests = 0

    async def handle(self, _request: web.Request) -> web.Response:
        self.requests += 1
        self.asked.set()
        await self.answer.wait()
        return web.json_response(PLAN)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def late_write(server: Server) -> None:
    """One that was allowed, waits for a connection, and is not allowed any more when it has one."""
    allowed, was_allowed = True, asyncio.Event()

    def may_write() -> None:
        if not allowed:
            raise Unavailable(0, "not sure to hold the Lease")
        was_allowed.set()

    async with serving(server) as url:
        cluster = Cluster(Connection(url), connections=1, may_write=may_write)
        try:
            first = asyncio.create_task(cluster.apply(PLAN, manager="test"))
            await server.asked.wait()
            was_allowed.clear()
            second = asyncio.create_task(cluster.apply(PLAN | {"data": {"late": "yes"}}, manager="test"))
            await was_allowed.wait()
            allowed = False
            server.answer.set()
            await first
            with pytest.raises(Unavailable, match="not sure to hold the Lease"):
                await second
        finally:
            await cluster.close()


def test_a_write_that_waited_for_a_connection_is_not_sent_by_one_who_is_not_the_leader_any_more() -> None:
    server = Server()
    asyncio.run(late_write(server))
    assert server.requests == 1
