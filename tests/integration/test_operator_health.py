"""What a liveness probe hears of an operator whose queue nobody works on."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
from prometheus_client import CollectorRegistry

from llmops.shell.health import LATE_SECONDS, serve
from llmops.shell.wakeups import Wakeups
from tests.integration.conftest import free_port


def test_healthz_fails_while_the_oldest_due_key_is_late_and_recovers_with_it() -> None:
    async def scenario() -> list[tuple[int, str]]:
        now = 0.0
        stuck, looked = asyncio.Event(), asyncio.Event()

        async def work(key: str) -> timedelta | None:
            await (stuck.wait() if key == "slow" else asyncio.sleep(0))
            if key == "waiting":
                looked.set()
            return None

        queue: Wakeups[str] = Wakeups(work, workers=1, done=lambda _: None, clock=lambda: now, jitter=lambda: 0.0)
        working = asyncio.create_task(queue.run())
        port = free_port()
        runner = await serve(port, registry=CollectorRegistry(), lateness=lambda: queue.lateness, ready=lambda: True)
        heard: list[tuple[int, str]] = []
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

            async def probe() -> None:
                answer = await client.get("/healthz")
                heard.append((answer.status_code, answer.text))

            queue.wake("slow")
            await asyncio.sleep(0)
            queue.wake("waiting")
            await probe()
            now = LATE_SECONDS + 1
            await probe()
            stuck.set()
            async with asyncio.timeout(60):
                await looked.wait()
            await probe()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await runner.cleanup()
        return heard

    before, late, after = asyncio.run(scenario())
    assert before == (200, "ok\n")
    assert late == (503, "the oldest due object is 61 s late\n")
    assert after == (200, "ok\n")
