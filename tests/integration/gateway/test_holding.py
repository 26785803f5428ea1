"""Requests for a model without replicas: they wait, in order, within limits, and are told why when they cannot."""

from __future__ import annotations

import asyncio
import json
import time

from llmops_serving.gateway import exchange
from tests.integration.gateway.rig import engines, eventually, model, rig, run


def test_a_thousand_requests_wait_for_a_sleeping_model_and_all_are_answered_in_order() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", max_held=1000, concurrency=4)) as gateway:
            gateway.http.timeout = 60
            loop = asyncio.get_running_loop()
            body = [json.dumps({"model": "support", "n": n}).encode() for n in range(1000)]
            writers = []
            for text in body:
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                writer.write(head % len(text) + text)
                writers.append((reader, writer))
            lane = gateway.gateway.lanes["default/support"]
            await eventually(lambda: lane.load.waiting == 1000, "all wait")
            over = await gateway.chat()
            assert over.status_code == 429
            assert over.headers["retry-after"]
            started = loop.time()
            gateway.pods("support", engine)
            answers = await asyncio.gather(*(reader.read() for reader, _ in writers))
            assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers), f"{loop.time() - started:.1f} s"
            order = [seen.document["n"] for seen in engine.seen]
            assert sorted(order) == list(range(1000))
            assert all(abs(n - place) <= 4 for place, n in enumerate(order)), "in order, but for those at work together"
            for _, writer in writers:
                writer.close()

    run(scenario)


def test_a_terminal_failure_answers_those_who_wait_at_once() -> None:
    async def scenario() -> None:
        async with rig(model("support")) as gateway:
            waiting = asyncio.create_task(gateway.chat())
            lane = gateway.gateway.lanes["default/support"]
            await eventually(lambda: lane.load.waiting == 1, "it waits")
            gateway.serve(model("support", failure="ModelAuthFailed: the hub refused the token."))
            response = await waiting
            assert response.status_code == 503
            assert "the hub refused the token" in response.json()["error"]["message"]
            assert (await gateway.chat()).status_code == 503, "and later ones too"

    run(scenario)


def test_a_model_that_is_deleted_answers_those_who_wait() -> None:
    async def scenario() -> None:
        async with rig(model("support")) as gateway:
            waiting = asyncio.create_task(gateway.chat())
            lane = gateway.gateway.lanes["default/support"]
            await eventually(lambda: lane.load.waiting == 1, "it waits")
            gateway.remove("default/support")
            assert (await waiting).status_code == 503
            assert (await gateway.chat()).status_code == 404

    run(scenario)


def test_waiting_ends_with_a_hint_when_to_come_back() -> None:
    async def scenario() -> None:
        async with rig(model("support", hold_seconds=0.3)) as gateway:
            response = await gateway.chat()
            assert (response.status_code, response.json()["error"]["code"]) == (503, "model_not_ready")
            assert int(response.headers["retry-after"]) > 0

    run(scenario)


def test_a_waiting_stream_has_its_head_at_once_and_its_tokens_later() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support")) as gateway:
            body = json.dumps({"model": "support", "stream": True})
            async with gateway.http.stream("POST", "/v1/chat/completions", content=body) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                gateway.pods("support", engine)
                text = "".join([part async for part in response.aiter_text()])
            assert text.count("data: ") == 5
            assert text.endswith("data: [DONE]\n\n")

    run(scenario)


def test_a_waiting_stream_is_kept_alive_by_comments() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support")) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            body = b'{"model":"support","stream":true}'
            writer.write(
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            await reader.readuntil(b"\r\n\r\n")
            later = time.monotonic() + exchange._COMMENT_SECONDS + 1
            for waiting in list(gateway.gateway.exchanges):
                waiting.tick(later)
            await asyncio.wait_for(reader.readuntil(b"waiting for the model to start\n\n"), 5)
            gateway.pods("support", engine)
            await asyncio.wait_for(reader.readuntil(b"[DONE]"), 5)
            writer.close()

    run(scenario)


def test_an_engine_error_after_waiting_becomes_an_event() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support")) as gateway:

            async def refuse(_engine: object, _seen: object, _reader: object, writer: asyncio.StreamWriter) -> bool:
                body = b'{"error":{"message":"too long","code":400}}'
                writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                return True

            engine.behaviour = refuse
            body = json.dumps({"model": "support", "stream": True})
            async with gateway.http.stream("POST", "/v1/chat/completions", content=body) as response:
                gateway.pods("support", engine)
                text = "".join([part async for part in response.aiter_text()])
            assert json.loads(text.removeprefix("data: "))["error"]["message"] == "too long"

    run(scenario)


def test_a_client_that_leaves_frees_its_place_and_the_others_go_on() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", max_held=2)) as gateway:
            staying = asyncio.create_task(gateway.chat())
            leaving = asyncio.create_task(gateway.chat())
            lane = gateway.gateway.lanes["default/support"]
            await eventually(lambda: lane.load.waiting == 2, "both wait")
            leaving.cancel()
            await eventually(lambda: lane.load.waiting == 1, "one left")
            gateway.pods("support", engine)
            assert (await staying).status_code == 200
            assert len(engine.seen) == 1

    run(scenario)


def test_a_pod_that_answers_is_used_before_the_cluster_calls_it_ready() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support")) as gateway:
            engine.healthy = False
            waiting = asyncio.create_task(gateway.chat())
            lane = gateway.gateway.lanes["default/support"]
            await eventually(lambda: lane.load.waiting == 1, "it waits")
            gateway.pods("support", engine, ready=False)
            await eventually(lambda: engine.asked > 0, "the pod is asked")
            assert lane.load.waiting == 1
            engine.healthy = True
            assert (await waiting).status_code == 200, "nobody has told the gateway that it is ready"

    run(scenario)


def test_a_request_waits_for_an_engine_that_ended_before_the_cluster_noticed() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            assert (await gateway.chat()).status_code == 200
            port = engine.port
            await engine.stop()
            lane = gateway.gateway.lanes["default/support"]
            early = asyncio.create_task(gateway.chat())
            await eventually(lambda: lane.load.waiting == 1 and not lane.load.in_flight, "it waits")
            late = asyncio.create_task(gateway.chat())
            await eventually(lambda: lane.load.waiting == 2, "so does the next one")
            await engine.start(port)
            assert [(await each).status_code for each in (early, late)] == [200, 200], "and nobody has told the gateway"
            assert (await gateway.chat()).status_code == 200

    run(scenario)


def test_nobody_waits_for_an_engine_that_ended_while_another_works() -> None:
    async def scenario() -> None:
        async with engines(2) as [ended, good], rig(model("support", ended, good)) as gateway:
            await ended.stop()
            answers = [await gateway.chat() for _ in range(10)]
            assert {answer.status_code for answer in answers} == {200}
            assert len(good.seen) == 10

    run(scenario)


def test_who_waits_for_an_engine_that_ended_waits_no_longer_than_for_one_that_sleeps() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine, hold_seconds=0.3)) as gateway:
            await engine.stop()
            response = await gateway.chat()
            assert (response.status_code, response.json()["error"]["code"]) == (503, "model_not_ready")

    run(scenario)
