"""The internal port: metrics, the load stream, health. Not reachable from outside the cluster."""

from __future__ import annotations

import asyncio

from aiohttp import web

from llmops import names
from llmops_serving.gateway.gateway import Gateway
from llmops_serving.gateway.load import COALESCE_SECONDS, HEARTBEAT, HEARTBEAT_SECONDS, LoadStream, hello

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def application(gateway: Gateway, identity: str) -> web.Application:
    """The pages of one process; `identity` names it on the load stream."""

    async def metrics(_request: web.Request) -> web.Response:
        text = gateway.metrics.text(gateway.gauges())
        return web.Response(body=text.encode(), headers={"Content-Type": _TEXT})

    async def health(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if gateway.ready else web.Response(status=503, text="no table, or draining\n")

    async def load_stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        await _tell(gateway, identity, response, LoadStream(keys="keys" in request.query))
        return response

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", metrics),
            web.get("/healthz", health),
            web.get("/readyz", ready),
            web.get(names.LOAD_STREAM, load_stream),
        ]
    )
    return app


async def _tell(gateway: Gateway, identity: str, response: web.StreamResponse, stream: LoadStream) -> None:
    """Write lines until the listener leaves or the process ends."""
    gateway.streams.add(stream)
    loop = gateway.loop
    try:
        keys = gateway.ledger.snapshot(stream, gateway.now())
        await response.write(hello(identity) + stream.snapshot(gateway.loads()) + keys + HEARTBEAT)
        beat = loop.time() + HEARTBEAT_SECONDS
        while not gateway.draining or gateway.exchanges:
            if lines := await _next_lines(stream, beat - loop.time()):
                await response.write(lines)
            if loop.time() >= beat:
                await response.write(HEARTBEAT)
                beat = loop.time() + HEARTBEAT_SECONDS
    except ConnectionResetError:
        return  # the listener left
    finally:
        gateway.streams.discard(stream)


async def _next_lines(stream: LoadStream, seconds: float) -> bytes:
    """What changed, together with what changes shortly after it; nothing when nothing does for so long."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await stream.wake.wait()
    except TimeoutError:
        return b""
    await asyncio.sleep(COALESCE_SECONDS)
    return stream.lines()
