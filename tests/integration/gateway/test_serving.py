"""What a client sees: routing, streams, errors, retries, cuts, draining. Engines misbehave on cue, sockets are real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from llmops_serving.gateway.gateway import Options
from tests.integration.gateway import engine as stub
from tests.integration.gateway.engine import Engine, Seen
from tests.integration.gateway.rig import Rig, engines, eventually, model, rig, run


def status_answer(status: int, *, then_open: bool = True) -> stub.Behaviour:
    async def behave(_engine: Engine, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = b'{"error":{"message":"engine says no"}}'
        writer.write(b"HTTP/1.1 %d No\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        return then_open

    return behave


async def tokens(gateway: Rig, token_type: str, suffix: str) -> float:
    own = 'namespace="default",model="support",adapter="",tenant="",gen_ai_operation_name="chat"'
    own += f',gen_ai_provider_name="vllm",gen_ai_request_model="support",gen_ai_token_type="{token_type}"'
    return await gateway.metric(f"gen_ai_client_token_usage_{suffix}{{{own}}}")


async def hang_up(_engine: Engine, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.transport.abort()
    return False


async def never(_engine: Engine, _seen: Seen, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> bool:
    await reader.read()  # until the gateway gives up
    return False


async def events(rig: Rig, **fields: object) -> list[str]:
    """The data of all events of a streamed answer."""
    body = json.dumps({"model": "support", "stream": True, "messages": [], **fields})
    async with rig.http.stream("POST", "/v1/chat/completions", content=body) as response:
        assert response.status_code == 200
        return [line[6:] async for line in response.aiter_lines() if line.startswith("data: ")]


def test_a_request_reaches_the_engine_with_its_own_bytes_and_without_the_key() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            body = b'{ "messages" : [] ,"model":"support", "tomorrow": {"model": "x"} }'
            headers = {
                "Authorization": "Bearer sk-secret",
                "X-LLMOps-Tenant": "root",
                "X-Mine": "kept",
                "Cookie": "a=b",
            }
            response = await gateway.http.post("/v1/chat/completions?x=1", content=body, headers=headers)
            assert response.json()["choices"][0]["message"]["content"] == "hello from engine-0"
            [seen] = engine.seen
            assert seen.body == body
            assert seen.path == "/v1/chat/completions?x=1"
            head = seen.head.lower()
            assert b"x-mine: kept" in head
            for secret in (b"sk-secret", b"x-llmops", b"cookie"):
                assert secret not in head

    run(scenario)


def test_a_name_with_its_namespace_is_rewritten_and_nothing_else() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            body = b'{ "messages":[ ],  "model" : "default/support","n":1 }'
            response = await gateway.http.post("/v1/chat/completions", content=body)
            assert response.status_code == 200
            assert engine.seen[0].body == b'{ "messages":[ ],  "model":"support","n":1 }'

    run(scenario)


def test_a_form_is_routed_by_its_model_field() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("whisper", engine)) as gateway:
            files: dict[str, tuple[str | None, bytes]] = {
                "file": ("a.wav", b"RIFF\r\n\r\n" * 9000),
                "model": (None, b"whisper"),
            }
            response = await gateway.http.post("/v1/audio/transcriptions", files=files)
            assert response.status_code == 200
            assert b"RIFF" in engine.seen[0].body

    run(scenario)


def test_a_stream_arrives_event_by_event_and_is_counted() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            engine.token_seconds = 0.01
            found = await events(gateway, stream_options={"include_usage": True})
            assert found[-1] == "[DONE]"
            assert json.loads(found[-2])["usage"] == stub.USAGE
            assert await tokens(gateway, "output", "sum") == 3
            assert await tokens(gateway, "input", "sum") == 12
            await events(gateway)
            assert await tokens(gateway, "output", "sum") == 6, "counted by events"
            assert await tokens(gateway, "input", "count") == 1, "unknown is not zero"
            assert await gateway.metric("llmops_gateway_finish_reason_total") == 2
            assert engine.connections == 1, "the connection is kept"

    run(scenario)


def test_requests_spread_over_the_pods() -> None:
    async def scenario() -> None:
        async with engines(3) as pods, rig(model("support", *pods)) as gateway:
            for pod in pods:
                pod.token_seconds = 0.02
            await asyncio.gather(*(gateway.chat() for _ in range(12)))
            assert [len(pod.seen) for pod in pods] == [4, 4, 4]

    run(scenario)


FAILING = [
    ("a pod that refuses connections", None),
    ("a pod that answers 503", status_answer(503)),
    ("a pod that answers 502", status_answer(502)),
    ("a pod that answers 504 and closes", status_answer(504, then_open=False)),
    ("a pod that dies before its answer", hang_up),
]


@pytest.mark.parametrize("behaviour", [case[1] for case in FAILING], ids=[case[0] for case in FAILING])
def test_another_pod_answers_instead_of(behaviour: stub.Behaviour | None) -> None:
    async def scenario() -> None:
        async with engines(2) as [bad, good], rig(model("support", bad, good)) as gateway:
            bad.behaviour = behaviour
            if behaviour is None:
                await bad.stop()
            answers = [await gateway.chat() for _ in range(8)]
            assert [answer.status_code for answer in answers] == [200] * 8
            retries = await gateway.metric("llmops_gateway_retries_total")
            assert 1 <= retries < len(answers), "the pod is left out for a while"

    run(scenario)


def test_an_engine_error_is_passed_on_and_not_tried_again() -> None:
    async def scenario() -> None:
        async with engines(2) as pods, rig(model("support", *pods)) as gateway:
            for pod in pods:
                pod.behaviour = status_answer(500)
            response = await gateway.chat()
            assert (response.status_code, response.json()["error"]["message"]) == (500, "engine says no")
            assert sum(len(pod.seen) for pod in pods) == 1

    run(scenario)


def test_a_prompt_that_kills_engines_kills_at_most_two() -> None:
    async def scenario() -> None:
        async with engines(4) as pods, rig(model("support", *pods)) as gateway:
            for pod in pods:
                pod.behaviour = hang_up
            response = await gateway.chat()
            assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_failed")
            assert sum(len(pod.seen) for pod in pods) == 2

    run(scenario)


def test_an_engine_that_restarted_costs_nobody_a_request() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            await asyncio.gather(*(gateway.chat() for _ in range(10)))
            port = engine.port
            await engine.stop()
            await engine.start(port)
            answers = await asyncio.gather(*(gateway.chat() for _ in range(10)))
            assert {answer.status_code for answer in answers} == {200}

    run(scenario)


def cutting(at: int, how: str) -> stub.Behaviour:
    """Send `at` bytes of a streamed answer's body, then end as told."""

    async def behave(engine: Engine, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = b"".join(map(stub.chunk, stub.stream_events(seen.document, engine.tokens))) + b"0\r\n\r\n"
        writer.write(stub.stream_head() + body[:at])
        await writer.drain()
        if how == "stall":
            await reader.read()
        elif how == "reset":
            await asyncio.sleep(0.01)
            writer.transport.abort()
        return False

    return behave


async def body_length() -> int:
    return sum(len(stub.chunk(event)) for event in stub.stream_events({}, 2)) + 5


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_stream_cut_at_any_byte_ends_in_an_error_and_never_looks_complete(how: str) -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            engine.tokens = 2
            length = await body_length()
            for at in range(1, length, 1 if how == "close" else 7):
                engine.behaviour = cutting(at, how)
                found = await events(gateway)
                last = json.loads(found[-1])
                assert last["error"]["code"] == "stream_interrupted", f"cut at byte {at}"
                for text in found[:-1]:
                    assert text == "[DONE]" or json.loads(text)["choices"], f"cut at byte {at}"
                gateway.gateway.apply(gateway.gateway.table)
            assert await gateway.metric("llmops_gateway_cut_total") > 0

    run(scenario)


def test_a_stream_that_stalls_ends_in_an_error() -> None:
    async def scenario() -> None:
        options = Options(stall_seconds=0.5)
        async with engines() as [engine], rig(model("support", engine), options=options) as gateway:
            engine.behaviour = cutting(150, "stall")
            found = await events(gateway)
            assert json.loads(found[-1])["error"]["code"] == "timeout"

    run(scenario)


def test_an_engine_that_never_answers_is_given_up_in_time() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine, timeout_seconds=0.5)) as gateway:
            engine.behaviour = never
            response = await gateway.chat()
            assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")

    run(scenario)


def test_a_client_that_leaves_stops_the_engine_and_frees_everything() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            engine.token_seconds, engine.tokens = 0.01, 100_000
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            body = b'{"model":"support","stream":true}'
            writer.write(
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            await reader.readuntil(b"data: ")
            writer.transport.abort()
            await eventually(lambda: not engine.open, "the engine's connection is closed")
            await eventually(lambda: not gateway.gateway.exchanges, "the request is over")
            assert await gateway.metric("llmops_gateway_requests_total{") == 1

    run(scenario)


def test_a_slow_reader_slows_the_engine_instead_of_filling_memory() -> None:
    async def flood(_engine: Engine, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(stub.stream_head())
        for number in range(200):
            writer.write(stub.chunk(b"data: " + b"x" * 100_000 + b"\n\n"))
            await writer.drain()
            sent[0] = number
        return False

    sent = [0]

    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            engine.behaviour = flood
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=2**16)
            body = b'{"model":"support","stream":true}'
            writer.write(
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            await reader.readuntil(b"data: ")
            before = -1
            while before != sent[0]:
                before = sent[0]
                await asyncio.sleep(0.2)
            assert sent[0] < 150, "the engine was stopped"
            total = 0
            while total < 200 * 100_000:
                total += len(await asyncio.wait_for(reader.read(2**20), 10))
            writer.close()

    run(scenario)


def test_models_are_listed_by_the_names_that_work() -> None:
    async def scenario() -> None:
        async with (
            engines() as [engine],
            rig(model("support", engine, adapters=("tickets",)), model("cold")) as gateway,
        ):
            listed = (await gateway.http.get("/v1/models")).json()
            assert [entry["id"] for entry in listed["data"]] == ["cold", "support", "tickets"]
            assert (await gateway.chat("tickets")).json()["model"] == "tickets"
            assert (await gateway.http.get("/healthz")).status_code == 200

    run(scenario)


def test_a_drain_finishes_streams_and_closes_idle_connections() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            engine.token_seconds, engine.tokens = 0.02, 20
            streaming = asyncio.create_task(events(gateway))
            await eventually(lambda: bool(engine.seen), "the request is under way")
            cut = await gateway.gateway.drain(10)
            assert cut == 0
            assert (await streaming)[-1] == "[DONE]"

    run(scenario)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine), model("other", engine)) as gateway:
            requests = b""
            for name in (b"support", b"other", b"missing", b"support"):
                body = b'{"model":"%b"}' % name
                requests += b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (
                    len(body),
                    body,
                )
            last = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            answer = await gateway.raw(requests + last)
            order = [answer.index(b'"model": "support"'), answer.index(b'"model": "other"')]
            order += [answer.index(b"model_not_found"), answer.rindex(b'"model": "support"'), answer.index(b'"list"')]
            assert order == sorted(order)

    run(scenario)


def test_http_1_0_gets_a_plain_body_and_a_closed_connection() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            body = b'{"model":"support","stream":true}'
            answer = await gateway.raw(
                b"POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            head, _, payload = answer.partition(b"\r\n\r\n")
            assert b"chunked" not in head
            assert payload.startswith(b"data: ")
            assert payload.endswith(b"data: [DONE]\n\n")

    run(scenario)


async def drip(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 3):
        yield data[at : at + 3]
        await asyncio.sleep(0)


def test_a_chunked_body_is_framed_anew() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            body = b'{"model":"support","messages":[]}'
            response = await gateway.http.post("/v1/chat/completions", content=drip(body))
            assert response.status_code == 200
            assert engine.seen[0].body == body
            assert b"transfer-encoding" not in engine.seen[0].head.lower()

    run(scenario)
