"""Adapters that come and go while engines run: only a pod that provably serves one is asked for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from llmops_serving.gateway.table import Model
from tests.integration.gateway.engine import Engine, Seen
from tests.integration.gateway.rig import endpoint, engines, eventually, rig, run


def serving(*pods: tuple[Engine, str]) -> Model:
    """A model with the adapters `tickets` and `mails`, and what each pod serves of them."""
    endpoints = tuple(replace(endpoint(engine), adapters=frozenset(loaded.split())) for engine, loaded in pods)
    return Model("default", "support", "support", ("tickets", "mails"), endpoints)


def test_an_adapter_is_asked_of_the_pods_that_have_it() -> None:
    async def scenario() -> None:
        async with engines(2) as [one, two], rig(serving((one, ""), (two, "tickets"))) as gateway:
            for _ in range(10):
                assert (await gateway.chat("tickets")).status_code == 200
            assert (len(one.seen), len(two.seen)) == (0, 10)
            for _ in range(10):
                assert (await gateway.chat("support")).status_code == 200
            assert one.seen, "the model itself is everywhere"

    run(scenario)


def test_a_request_waits_for_its_adapter_and_holds_up_nobody() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(serving((engine, "mails"))) as gateway:
            lane = gateway.gateway.lanes["default/support"]
            early = asyncio.create_task(gateway.chat("tickets"))
            await eventually(lambda: len(lane.waiting) == 1, "the adapter is nowhere yet")
            assert (await gateway.chat("support")).status_code == 200
            assert (await gateway.chat("mails")).status_code == 200
            gateway.serve(serving((engine, "mails tickets")))
            assert (await early).json()["model"] == "tickets"

    run(scenario)


def test_another_try_goes_to_a_pod_with_the_adapter() -> None:
    async def refuses(_e: Engine, _s: Seen, _r: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
        return True

    async def scenario() -> None:
        async with (
            engines(3) as [bare, busy, good],
            rig(serving((bare, ""), (busy, "tickets"), (good, "tickets"))) as gateway,
        ):
            busy.behaviour = refuses
            for _ in range(4):
                assert (await gateway.chat("tickets")).status_code == 200
            assert not bare.seen

    run(scenario)
