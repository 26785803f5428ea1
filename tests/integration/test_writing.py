"""What the operator's client sends, and what it keeps to itself."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

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


async def late_write(server: Server) -> None:
    """One that was allowed, waits for a connection, and is not allowed any more when it has one."""
    allowed, was_allowed = True, asyncio.Event()

    def may_write() -> None:
        if not allowed:
            raise Unavailable(0, "not sure to hold the Lease")
        was_allowed.set()

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(application) as listening:
        cluster = Cluster(Connection(str(listening.make_url(""))), connections=1, may_write=may_write)
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
