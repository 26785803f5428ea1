"""Answers whose text is looked at are counted by what they are like, and nothing of the text is in any metric."""

from __future__ import annotations

import asyncio

from tests.integration.gateway.rig import DEADLINE_SECONDS, Rig, engines, model, rig, run

COUNTED = (
    'llmops_gateway_text_total{namespace="default",model="support",adapter="",tenant="",gen_ai_operation_name="chat",'
    'signal="empty",value="no"}'
)


async def counted(gateway: Rig, count: int) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await gateway.metric(COUNTED) != count:  # noqa: ASYNC110 - a scrape is all there is to wait for
            await asyncio.sleep(0.01)


def test_documents_and_streams_are_counted_and_their_text_is_not_told() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine, text_sample=1.0)) as gateway:
            assert (await gateway.chat()).status_code == 200
            await counted(gateway, 1)
            assert (await gateway.chat(stream=True)).status_code == 200
            await counted(gateway, 2)
            metrics = (await gateway.http.get(f"http://127.0.0.1:{gateway.internal_port}/metrics")).text
            assert "hello" not in metrics

    run(scenario)


def test_nobody_looks_unless_asked_to() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            assert (await gateway.chat()).status_code == 200
            assert await gateway.metric("llmops_gateway_text_total{") == 0

    run(scenario)
