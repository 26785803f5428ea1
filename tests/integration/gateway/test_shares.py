"""Limits of a key hold over two replicas with two workers each, without a store between them. Real processes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.integration.conftest import free_port
from tests.integration.gateway.engine import Engine, Seen, answer
from tests.integration.gateway.rig import engines, eventually, run
from tests.integration.gateway.test_process import Started, started

WORKERS = 2
SECONDS = 120.0


def key(secret: str, **limits: int) -> dict[str, object]:
    return {"hash": hashlib.sha256(secret.encode()).hexdigest(), "tenant": secret, **limits}


@contextlib.asynccontextmanager
async def replicas(tmp_path: Path, engine: Engine, *keys: dict[str, object]) -> AsyncIterator[list[Started]]:
    """Two replicas that hear each other."""
    ports = [free_port(), free_port()]
    async with contextlib.AsyncExitStack() as stack:
        both = [
            await stack.enter_async_context(
                started(tmp_path, engine, WORKERS, "--peer", f"127.0.0.1:{other}", keys=keys, internal=own)
            )
            for own, other in (ports, ports[::-1])
        ]
        async with asyncio.timeout(SECONDS):
            for each in both:
                await until_in_company(each)
        yield both


async def until_in_company(gateway: Started) -> None:
    """Until every worker hears the three others."""
    line = f"llmops_gateway_peers_heard {WORKERS * (2 * WORKERS - 1)}"
    page = f"{gateway.internal}/metrics"
    while line not in (await gateway.http.get(page)).text.splitlines():  # noqa: ASYNC110 - a page has no event
        await asyncio.sleep(0.05)


async def ask(gateway: Started, secret: str) -> int:
    """On a connection of its own, so that the kernel chooses a worker anew; the status."""
    body = b'{"model":"support","messages":[],"max_tokens":1}'
    head = f"Host: x\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.http.base_url.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + body)
    try:
        return int((await reader.read()).split(b" ", 2)[1])
    finally:
        writer.close()


async def admitted_of(gateways: Sequence[Started], secret: str, *, enough: int) -> tuple[int, float]:
    """Ask again and again until so many were admitted; how many were in the end, and in how many seconds."""
    begun = time.monotonic()
    admitted = 0
    while admitted < enough:
        assert time.monotonic() < begun + SECONDS, f"only {admitted} of {enough} were admitted"
        statuses = await asyncio.gather(*(ask(gateway, secret) for gateway in gateways for _ in range(8)))
        assert set(statuses) <= {200, 429}
        admitted += statuses.count(200)
    return admitted, time.monotonic() - begun


def test_requests_per_minute_hold_over_all_processes_wherever_they_are_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        limit = 200
        keys = [key("everywhere", requestsPerMinute=limit), key("in-one-place", requestsPerMinute=limit)]
        async with engines() as [engine], replicas(tmp_path, engine, *keys) as both:
            for secret, gateways in (("everywhere", both), ("in-one-place", both[:1])):
                admitted, seconds = await admitted_of(gateways, secret, enough=round(0.9 * limit))
                burst = 8 * len(gateways)
                admitted_more, more = await admitted_of(gateways, secret, enough=burst)
                allowed = limit + (seconds + more) * limit / 60
                assert admitted + admitted_more <= 1.1 * allowed, f"{admitted}+{admitted_more} in {seconds}+{more} s"

    run(scenario)


def test_requests_at_once_hold_over_all_processes(tmp_path: Path) -> None:
    async def scenario() -> None:
        limit = 40
        go_on = asyncio.Event()
        at_once = most = 0

        async def held(engine: Engine, seen: Seen, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await go_on.wait()
            at_once -= 1
            writer.write(answer(seen.document, engine.name))
            return True

        async with engines() as [engine]:
            async with replicas(tmp_path, engine, key("k", concurrency=limit)) as both:
                engine.behaviour = held
                waiting: set[asyncio.Task[int]] = set()
                async with asyncio.timeout(SECONDS):
                    while at_once < 0.9 * limit:
                        waiting |= {asyncio.create_task(ask(each, "k")) for each in both for _ in range(8)}
                        _, waiting = await asyncio.wait(waiting, timeout=0.2)
                for _ in range(3):
                    refused = await asyncio.wait({asyncio.create_task(ask(each, "k")) for each in both}, timeout=0.5)
                    waiting |= refused[1]
                go_on.set()
                await asyncio.gather(*waiting)
                assert most <= 1.1 * limit
            await eventually(lambda: not at_once, "all are answered")

    run(scenario)
