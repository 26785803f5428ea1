"""Several processes on one port: a parent that starts them, and merges what they tell into one internal port.

Each worker is a whole gateway with its own discovery; the kernel spreads connections over them (`SO_REUSEPORT`). A
worker serves its internal pages on a Unix socket. The parent's `/metrics` adds them up, and its `/loadstream` is one
stream whose levels are the sums; it ends when a worker is lost, because then a part of the load is unknown.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import structlog
from aiohttp import web

from llmops import names
from llmops_serving.gateway.load import HEARTBEAT, hello
from llmops_serving.gateway.metrics import summed

log = structlog.get_logger(__name__)

RESTART_SECONDS = 1.0
ANSWER_SECONDS = 5.0
SILENCE_SECONDS = 3.0


def sockets(directory: Path, count: int) -> list[Path]:
    """Where the workers serve their internal pages."""
    return [directory / f"worker-{number}.sock" for number in range(count)]


@dataclass(slots=True)
class _Worker:
    socket: Path
    process: asyncio.subprocess.Process | None = None


@dataclass(slots=True)
class Merged:
    """Levels of every model by worker, and what they are together."""

    levels: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)

    def line(self, worker: int, line: dict[str, Any]) -> bytes:
        """The line of all workers after one of them said `line`. Counts pass as they are, levels are added."""
        of_model = self.levels.setdefault(line["model"], {})
        of_model[worker] = line
        ends = [one["lastEnd"] for one in of_model.values() if one["lastEnd"] is not None]
        together = {
            **line,
            "inFlight": sum(one["inFlight"] for one in of_model.values()),
            "waiting": sum(one["waiting"] for one in of_model.values()),
            "lastEnd": max(ends, default=None),
        }
        return orjson.dumps(together) + b"\n"


class Workers:
    """The parent of `count` workers that run `command` with `--worker-socket PATH` added."""

    def __init__(self, count: int, command: Sequence[str], directory: Path, identity: str) -> None:
        """Nothing is started yet; `directory` must be private to this process."""
        self._command = list(command)
        self._workers = [_Worker(path) for path in sockets(directory, count)]
        self._identity = identity
        self._stopping = False

    async def run(self, host: str, port: int, stop: asyncio.Event) -> int:
        """Serve until `stop`; then let every worker drain. Returns the worst exit status of a drain."""
        keepers = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        await stop.wait()
        self._stopping = True
        for worker in self._workers:
            if worker.process is not None and worker.process.returncode is None:
                worker.process.send_signal(signal.SIGTERM)
        codes = await asyncio.gather(*keepers)
        await runner.cleanup()
        return max(codes)

    async def _keep(self, worker: _Worker) -> int:
        """Run one worker, and again whenever it dies."""
        while True:
            worker.socket.unlink(missing_ok=True)
            worker.process = await asyncio.create_subprocess_exec(
                sys.executable, *self._command, "--worker-socket", str(worker.socket)
            )
            code = await worker.process.wait()
            if self._stopping:
                return code
            log.error("worker died", code=code)
            await asyncio.sleep(RESTART_SECONDS)

    def _application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get(names.LOAD_STREAM, self._load_stream),
            ]
        )
        return app

    async def _all(self, path: str) -> list[tuple[int, str]]:
        """Status and text of a page of every worker; 503 for one that does not answer."""
        return await asyncio.gather(*(self._page(worker, path) for worker in self._workers))

    async def _page(self, worker: _Worker, path: str) -> tuple[int, str]:
        try:
            async with _session(worker) as session, session.get(f"http://worker{path}") as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 503, ""

    async def _metrics(self, _request: web.Request) -> web.Response:
        texts = [text for status, text in await self._all("/metrics") if status == 200]
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=summed(texts).encode() if texts else b"", headers={"Content-Type": kind})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        ready = all(status == 200 for status, _ in await self._all("/readyz")) and not self._stopping
        return web.Response(status=200 if ready else 503, text="ok\n" if ready else "starting or draining\n")

    async def _load_stream(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        path = str(request.rel_url)
        tasks = [asyncio.create_task(self._follow(n, worker, path, queue)) for n, worker in enumerate(self._workers)]
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        try:
            await response.prepare(request)
            await response.write(hello(self._identity, len(self._workers)))
            await _merge(queue, len(self._workers), response)
        except ConnectionResetError:
            pass  # the listener left
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return response

    async def _follow(self, number: int, worker: _Worker, path: str, queue: asyncio.Queue[tuple[int, bytes]]) -> None:
        """Put a worker's lines into the queue, and an empty one when they end."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_SECONDS)
        try:
            async with (
                _session(worker) as session,
                session.get(f"http://worker{path}", timeout=timeout) as response,
            ):
                await response.content.readline()
                async for line in response.content:
                    queue.put_nowait((number, line))
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass  # told by the empty line
        finally:
            queue.put_nowait((number, b""))


def _session(worker: _Worker) -> aiohttp.ClientSession:
    connector = aiohttp.UnixConnector(str(worker.socket))
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))


async def _merge(queue: asyncio.Queue[tuple[int, bytes]], count: int, response: web.StreamResponse) -> None:
    """Write merged lines until a worker is lost. The first heartbeat comes when every worker has told all it knows."""
    merged = Merged()
    complete: set[int] = set()
    while True:
        number, line = await queue.get()
        if not line:
            return
        if line != HEARTBEAT:
            said = orjson.loads(line)
            await response.write(merged.line(number, said) if "model" in said else line)
            continue
        complete.add(number)
        if len(complete) == count and number == 0:
            await response.write(HEARTBEAT)
