"""What the operator makes of a Prometheus that hangs, lies, or comes back: no answer is "nobody knows", for a while."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from hack.cluster.certificates import Authority
from llmops.api.drift import Watched
from llmops.shell.mirror import Key
from llmops.shell.prometheus import Prometheus, Silent
from llmops.shell.traffic import Question, Traffic

KEY = Key("LLMDeployment", "team-a", "support")
QUESTION = Question(Watched(namespace="team-a", model="support"), "1m")
SAMPLE = {"metric": {"__name__": "llmops:drift_samples"}, "value": [1763690000, "500"]}
GOOD = {"status": "success", "data": {"resultType": "vector", "result": [SAMPLE]}}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def now() -> datetime:
    return datetime.now(UTC)


async def hangs(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def good(_request: web.Request) -> web.StreamResponse:
    return web.json_response(GOOD)


async def page(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>Sign in</html>", content_type="text/html")


async def refused(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"status": "error", "error": "too many samples"}, status=422)


async def elsewhere(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://127.0.0.1:9/")


async def another_shape(_request: web.Request) -> web.StreamResponse:
    return web.json_response(["no", "object"])


@asynccontextmanager
async def asked(answer: Answer) -> AsyncIterator[tuple[Traffic, asyncio.Queue[Key], list[Answer]]]:
    """Traffic that asks a server whose answer can be changed."""
    answers, heard = [answer], asyncio.Queue[Key]()

    async def answering(request: web.Request) -> web.StreamResponse:
        return await answers[0](request)

    app = web.Application()
    app.router.add_post("/api/v1/query", answering)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    server = Prometheus(url, timeout_seconds=1)
    traffic = Traffic(server, heard.put_nowait, now=now, jitter=lambda: 0.0, least_pause_seconds=0.1)
    running = asyncio.create_task(traffic.run())
    try:
        yield traffic, heard, answers
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await traffic.close()
        await runner.cleanup()


@pytest.mark.parametrize("answer", [hangs, page, refused, elsewhere, another_shape], ids=lambda each: each.__name__)
def test_no_answer_is_no_knowledge_and_an_answer_ends_it(answer: Answer) -> None:
    async def scenario() -> None:
        async with asked(answer) as (traffic, heard, answers), asyncio.timeout(120):
            assert traffic.evidence(KEY, QUESTION) is None, "nobody waits for it"
            assert await heard.get() == KEY
            found = traffic.evidence(KEY, QUESTION)
            assert found is not None
            assert found.silent
            answers[0] = good
            while found is None or found.silent:
                await heard.get()
                found = traffic.evidence(KEY, QUESTION)
            assert found.samples == (SAMPLE,)

    asyncio.run(scenario())


def test_a_token_and_an_authority_come_from_files_and_may_change(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "authority"), Authority(tmp_path / "stranger")
    pair = authority.issue("server", "prometheus", addresses=["127.0.0.1"])
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    given: list[str | None] = []

    async def answering(request: web.Request) -> web.StreamResponse:
        given.append(request.headers.get("authorization"))
        return web.json_response(GOOD if given[-1] == "Bearer second" else {}, status=200 if given[-1] else 401)

    async def scenario() -> None:
        app = web.Application()
        app.router.add_post("/api/v1/query", answering)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pair.certificate, pair.key)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        server = Prometheus(f"https://127.0.0.1:{runner.addresses[0][1]}", credentials=credentials)
        ca, token = credentials / "ca.crt", credentials / "token"
        try:
            for authorities in ((), (stranger,)):
                for each in authorities:
                    ca.write_bytes(each.certificate.read_bytes())
                with pytest.raises(Silent, match="certificate verify failed"):
                    await server.query("up")
            ca.write_bytes(authority.certificate.read_bytes())
            with pytest.raises(Silent, match="HTTP 401"):
                await server.query("up")
            token.write_text("first\n")
            with pytest.raises(Silent):
                await server.query("up")
            token.write_text("second\n")
            assert await server.query("up") == [SAMPLE]
            assert given == [None, "Bearer first", "Bearer second"]
        finally:
            await server.close()
            await runner.cleanup()

    asyncio.run(scenario())


def test_without_a_prometheus_nobody_is_asked() -> None:
    traffic = Traffic(None, lambda _: None, now=now, jitter=lambda: 0.0)
    found = traffic.evidence(KEY, QUESTION)
    assert found is not None
    assert found.silent


def test_what_is_forgotten_is_not_asked_any_more() -> None:
    async def scenario() -> None:
        async with asked(good) as (traffic, heard, _), asyncio.timeout(120):
            traffic.evidence(KEY, QUESTION)
            await heard.get()
            traffic.forget(KEY)
            other = Key("LLMDeployment", "team-a", "other")
            traffic.evidence(other, QUESTION)
            assert await heard.get() == other
            assert await heard.get() == other, "the first would have been due before"

    asyncio.run(scenario())
