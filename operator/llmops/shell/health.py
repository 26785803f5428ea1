"""The operator's own endpoints: /healthz, /readyz and /metrics."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

# A reconcile may take 30 s; a queue whose oldest due key is later than this is not being worked on.
LATE_SECONDS = 60.0


async def serve(
    port: int, *, registry: CollectorRegistry, lateness: Callable[[], float], ready: Callable[[], bool]
) -> web.AppRunner:
    """Start answering; the caller cleans the runner up."""

    async def healthz(_: web.Request) -> web.Response:
        late = lateness()
        if late > LATE_SECONDS:
            return web.Response(status=503, text=f"the oldest due object is {late:.0f} s late\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if ready() else web.Response(status=503, text="starting\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()
    return runner
