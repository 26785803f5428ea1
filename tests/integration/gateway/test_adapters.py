"""Adapters that come and go while engines run: only a pod that provably serves one is asked for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from llmops_serving.gateway.table import Model
from tests.integration.gateway.engine import Behaviour, Engine, Seen
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


def unknown(body: bytes) -> Behaviour:
    """Answers every request with 404 and this body."""

    async def behaviour(_e: Engine, _s: Seen, _r: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        return True

    return behaviour


MISSING = b'{"error":{"message":"The model `tickets` does not exist.","type":"NotFoundError","code":404}}'


def test_an_engine_that_started_again_has_no_adapter_and_its_request_waits() -> None:
    """What the pod says is of the engine's last life: nobody has noticed yet that it ended."""

    async def scenario() -> None:
        async with engines() as [engine], rig(serving((engine, "mails tickets"))) as gateway:
            engine.behaviour = unknown(MISSING)
            lane = gateway.gateway.lanes["default/support"]
            whole = asyncio.create_task(gateway.chat("tickets"))
            stream = asyncio.create_task(gateway.chat("tickets", stream=True))
            await eventually(lambda: len(lane.waiting) == 2 and not lane.load.in_flight, "both wait")
            gateway.serve(serving((engine, "")))  # the operator has seen the new start
            engine.behaviour = None
            assert (await gateway.chat("support")).status_code == 200
            assert len(lane.waiting) == 2
            gateway.serve(serving((engine, "tickets")))  # and has given it its adapter
            assert (await whole).json()["model"] == "tickets"
            assert (await stream).text.endswith("data: [DONE]\n\n")

    run(scenario)


def test_an_adapter_that_comes_back_unseen_is_found() -> None:
    """The pod's record was wrong for a moment in which the gateway did not look."""

    async def scenario() -> None:
        async with engines() as [engine], rig(serving((engine, "tickets"))) as gateway:
            engine.behaviour = unknown(MISSING)
            lane = gateway.gateway.lanes["default/support"]
            waiting = asyncio.create_task(gateway.chat("tickets"))
            await eventually(lambda: len(lane.waiting) == 1, "it waits")
            engine.behaviour = None
            assert (await waiting).json()["model"] == "tickets"

    run(scenario)


def test_a_pod_without_the_adapter_is_left_for_one_that_has_it() -> None:
    async def scenario() -> None:
        async with engines(2) as [restarted, good], rig(serving((restarted, "tickets"), (good, "tickets"))) as gateway:
            restarted.behaviour = unknown(MISSING)
            for _ in range(6):
                assert (await gateway.chat("tickets")).status_code == 200
            assert len(restarted.seen) == 1
            assert len(good.seen) == 6

    run(scenario)


def test_what_else_an_engine_does_not_find_the_client_is_told() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(serving((engine, "tickets"))) as gateway:
            for body in (b'{"detail":"Not Found"}', b"", b"x" * 100_000):
                engine.behaviour = unknown(body)
                answer = await gateway.chat("tickets")
                assert (answer.status_code, answer.content) == (404, body)
            engine.behaviour = None
            assert (await gateway.chat("tickets")).status_code == 200

    run(scenario)
