"""A proxy between operators and a real API server that counts every write and can spoil any of them.

Operators reach it over plain HTTP on loopback and say who they are by their token; it speaks to the API server as the
account whose rights are under test::

    with FaultProxy(plane.kubeconfig_for(account, groups)) as proxy:
        proxy.plan[("default", 3)] = Fault.LOST
        ...
        assert proxy.standing.violations == []
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import orjson
import uvloop
from aiohttp import web
from yarl import URL

from llmops.shell.connection import from_kubeconfig
from tests.faultproxy.assertions import Standing
from tests.faultproxy.calls import Call, Json, parsed
from tests.faultproxy.faults import DELAY_SECONDS, REASONS, RETRY_AFTER_SECONDS, Fault, refusal
from tests.faultproxy.watches import Stream, Watches

PASSED_ON = ("Content-Type", "Accept", "User-Agent")
ANSWERED = ("Content-Type", "Retry-After")


class FaultProxy:
    """One proxy for the operators of one Lease.

    Attributes:
        plan: The fault for the nth write of a namespace. Each strikes once.
        choose: Asked for a fault where the plan has none.
        calls: Every request so far that is not a watch, in order.
        standing: What must hold for all of them.
        watches: The open watches and their faults.
        pids: The process of each operator, for the faults that kill.
        struck: By namespace, what to do when a fault strikes there, while the write waits.
        cut_off: The operators whose every connection is reset: for them the API server is not there.
    """

    def __init__(self, kubeconfig: Path) -> None:
        link = from_kubeconfig(kubeconfig)
        self._upstream, self._tls = link.url, link.tls
        self.plan: dict[tuple[str, int], Fault] = {}
        self.choose: Callable[[Call], Fault | None] = lambda _: None
        self.calls: list[Call] = []
        self.standing = Standing()
        self.pids: dict[str, int] = {}
        self.cut_off: set[str] = set()
        self.struck: dict[str, Callable[[Call], None]] = {}
        self._processes: Counter[str] = Counter()
        self._written: Counter[str] = Counter()
        self._writes: defaultdict[str, list[Call]] = defaultdict(list)
        self._lists: dict[str, bytes] = {}
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(_told)
        self.watches = Watches(self._loop)
        self._ready: Future[int] = Future()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="faultproxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._ready.result(timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(timeout=60)

    def kubeconfig(self, path: Path, source: str) -> Path:
        """A kubeconfig for one process of the operator that shall be called `source`."""
        self._processes[source] += 1
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": source, "user": {"token": f"{source}#{self._processes[source]}"}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": source}}],
            "current-context": "proxy",
        }
        path.write_text(json.dumps(content))
        return path

    def plan_next(self, namespace: str, number: int, fault: Fault) -> tuple[str, int]:
        """Plan a fault for the nth write from now on; its key in `plan`."""
        key = namespace, self._written[namespace] + number
        self.plan[key] = fault
        return key

    def writes(self, namespace: str) -> list[Call]:
        """The writes of a namespace so far, in order."""
        return list(self._writes[namespace])

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        connector = aiohttp.TCPConnector(ssl=self._tls if isinstance(self._tls, ssl.SSLContext) else False, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            self._session = session
            self._ready.set_result(runner.addresses[0][1])
            await self._ended.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        process = request.headers.get("Authorization", "").removeprefix("Bearer ")
        call = parsed(process, request.method, request.raw_path, await request.read())
        if call.source in self.cut_off:
            return _reset(request)
        try:
            if call.verb == "watch":
                return await self._watch(request, call)
            self.calls.append(call)
            if call.writes:
                self._writes[call.namespace].append(call)
            return await self._spoiled(request, call, self._fault(call))
        except (aiohttp.ClientError, OSError):
            return _reset(request)

    def _fault(self, call: Call) -> Fault | None:
        if not call.writes:
            return None
        self._written[call.namespace] += not call.is_lease
        call.number = 0 if call.is_lease else self._written[call.namespace]
        fault = self.plan.pop((call.namespace, call.number), None) or self.choose(call)
        if fault:
            call.fault = fault
            self.standing.disturb(call.namespace)
        return fault

    async def _spoiled(self, request: web.Request, call: Call, fault: Fault | None) -> web.StreamResponse:
        """The answer, or what the fault makes of it."""
        if fault is None:
            return await self._forward(request, call)
        if fault == Fault.DELAY:
            await asyncio.sleep(DELAY_SECONDS)
        if (struck := self.struck.get(call.namespace)) and not fault.kills:
            await self._loop.run_in_executor(None, struck, call)
        answer = await self._forward(request, call) if fault.commits else None
        if fault.kills:
            os.kill(self.pids[call.source], signal.SIGKILL)
            if struck:
                struck(call)
            return _reset(request)
        if fault == Fault.HANG:
            await asyncio.Event().wait()
        if fault in (Fault.DELAY, Fault.DELETED, Fault.RECREATED) and answer:
            return answer
        if fault == Fault.TRUNCATED and answer:
            return await _truncated(request, answer)
        if fault in REASONS:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if fault == Fault.THROTTLED else None
            body = refusal(int(fault), REASONS[fault])
            return web.Response(status=int(fault), body=body, content_type="application/json", headers=headers)
        return _reset(request)

    async def _forward(self, request: web.Request, call: Call) -> web.Response:
        if call.verb == "list" and self.watches.old_lists and (old := self._lists.get(request.raw_path)):
            return web.Response(body=old, content_type="application/json")
        known = self.standing.before(call)
        async with self._asked(request, call) as upstream:
            body = await upstream.read()
            call.status = upstream.status
            kept = {
                name: upstream.headers[name] for name in ("Content-Type", "Retry-After") if name in upstream.headers
            }
        if call.status == 200 and call.verb == "list":
            self._lists.setdefault(request.raw_path, body)
        if kept.get("Content-Type", "").startswith("application/json"):
            answer: Json = orjson.loads(body)
            call.version = str(answer.get("metadata", {}).get("resourceVersion", ""))
            self.standing.after(call, answer, known)
            for item in answer.get("items") or []:
                self.standing.learn(call, item)
        return web.Response(status=call.status, body=body, headers=kept)

    async def _watch(self, request: web.Request, call: Call) -> web.StreamResponse:
        self.standing.before(call)
        self.watches.opened += 1
        if self.watches.unanswered:
            await asyncio.Event().wait()
        if code := self.watches.refuse:
            body = refusal(code, "Expired" if code == 410 else "InternalError")
            return web.Response(status=code, body=body, content_type="application/json")
        async with self._asked(request, call) as upstream:
            if upstream.status != 200:
                return web.Response(status=upstream.status, body=await upstream.read(), content_type="application/json")
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            stream = Stream(call, response, request.transport)
            self.watches.streams.add(stream)
            try:
                async for line in _lines(upstream.content):
                    await self.watches.may_pass(call.resource)
                    self.standing.learn(call, orjson.loads(line)["object"])
                    await stream.relay(line, times=self.watches.times)
                if not stream.silent:
                    return response
                await asyncio.Event().wait()
            finally:
                self.watches.streams.discard(stream)
        return _reset(request)

    def _asked(self, request: web.Request, call: Call) -> aiohttp.client._RequestContextManager:
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        url = URL(self._upstream + request.raw_path, encoded=True)
        return self._session.request(request.method, url, headers=headers, data=call.body or None)


def _told(loop: asyncio.AbstractEventLoop, context: Json) -> None:
    """uvloop complains of every encrypted connection that its peer closes while something is being written."""
    if "closed" not in str(context.get("exception")):
        loop.default_exception_handler(context)


def _reset(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response()


async def _truncated(request: web.Request, answer: web.Response) -> web.StreamResponse:
    body = answer.body if isinstance(answer.body, bytes) else b""
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport:
        request.transport.close()
    return response


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length, with their ends."""
    pending = bytearray()
    async for chunk, _ in content.iter_chunks():
        pending += chunk
        while (end := pending.find(b"\n")) >= 0:
            yield bytes(pending[: end + 1])
            del pending[: end + 1]
