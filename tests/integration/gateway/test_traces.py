"""A request as a trace: what an OTLP receiver gets, what the engine is told, and what neither hears of."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

from llmops_serving.gateway.spans import Spans
from llmops_serving.gateway.table import Model
from llmops_serving.gateway.trace import Tracer
from tests.integration.conftest import free_port
from tests.integration.gateway.engine import Engine, Seen
from tests.integration.gateway.receiver import Receiver, receiver
from tests.integration.gateway.rig import Rig, engines, eventually, model, rig, run
from tests.integration.gateway.test_process import started

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUIET = CALLER[:-1] + "0"
MESSAGE = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}


@contextlib.asynccontextmanager
async def traced(*models: Model, ratio: float) -> AsyncIterator[tuple[Rig, Receiver]]:
    """A gateway with traces, and what it sent once the block is left."""
    async with receiver() as heard, rig(*models) as gateway:
        spans = Spans(heard.url, "gateway-0")
        gateway.gateway.tracer = Tracer(ratio, spans.write)
        try:
            yield gateway, heard
        finally:
            await asyncio.get_running_loop().run_in_executor(None, spans.close)


def told(seen: Seen) -> str:
    """The one traceparent that the engine got, empty for none."""
    found = re.findall(rb"\r\ntraceparent: (\S+)", seen.head, re.IGNORECASE)
    assert len(found) <= 1
    return found[0].decode() if found else ""


def test_a_request_is_a_span_and_each_call_of_an_engine_one_below_it() -> None:
    async def scenario() -> None:
        async with engines() as [engine]:
            async with traced(model("support", engine), ratio=1) as (gateway, heard):
                await gateway.chat(stream=True, stream_options={"include_usage": True})
            [call, request] = heard.spans
            assert (request.service, request.name, request.kind) == (
                "llmops-gateway",
                "POST /v1/chat/completions",
                "SERVER",
            )
            assert (request.parent_id, request.failed) == ("", False)
            assert request.attributes["http.response.status_code"] == 200
            assert request.attributes["llmops.model"] == "support"
            assert 0 < request.attributes["gen_ai.latency.time_to_first_token"] <= request.seconds
            assert (call.name, call.kind, call.parent_id) == ("chat support", "CLIENT", request.span_id)
            assert call.seconds <= request.seconds
            assert call.attributes == {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "vllm",
                "gen_ai.request.model": "support",
                "gen_ai.request.stream": True,
                "gen_ai.response.model": "support",
                "gen_ai.usage.input_tokens": 12,
                "gen_ai.usage.output_tokens": 3,
                "gen_ai.response.finish_reasons": ["stop"],
                "server.address": "127.0.0.1",
                "server.port": engine.port,
                "k8s.pod.name": engine.name,
            }
            assert told(engine.seen[0]) == f"00-{request.trace_id}-{call.span_id}-01"

    run(scenario)


def test_a_client_who_traces_is_obeyed() -> None:
    async def scenario() -> None:
        async with engines() as [engine]:
            async with traced(model("support", engine), ratio=0) as (gateway, heard):
                for sent in ({"traceparent": CALLER, "tracestate": "a=b"}, {"traceparent": QUIET}, {}):
                    await gateway.http.post("/v1/chat/completions", json=MESSAGE, headers=sent)
            [call, request] = heard.spans
            assert (request.trace_id, request.parent_id) == tuple(CALLER.split("-")[1:3])
            recorded, quiet, plain = map(told, engine.seen)
            assert recorded == f"00-{request.trace_id}-{call.span_id}-01"
            assert b"tracestate: a=b" in engine.seen[0].head
            assert (quiet, plain) == (QUIET, ""), "what is not recorded passes as it came"

    run(scenario)


def test_what_is_no_traceparent_begins_a_trace_of_its_own() -> None:
    zeros = f"00-{'0' * 32}-b7ad6b7169203331-01"
    wrong = (zeros, CALLER.upper(), "ff" + CALLER[2:], CALLER + "-more", "garbage", f"{CALLER}, {CALLER}")

    async def scenario() -> None:
        async with engines() as [engine]:
            async with traced(model("support", engine), ratio=1) as (gateway, heard):
                for value in wrong:
                    await gateway.http.post("/v1/chat/completions", json=MESSAGE, headers={"traceparent": value})
            requests = [span for span in heard.spans if span.kind == "SERVER"]
            assert [span.parent_id for span in requests] == [""] * len(wrong)
            assert [told(seen)[3:35] for seen in engine.seen] == [span.trace_id for span in requests]

    run(scenario)


def test_every_try_is_told_apart() -> None:
    async def refuses(_e: Engine, _s: Seen, _r: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
        return True

    async def scenario() -> None:
        async with engines(3) as pods:
            for engine in pods[:2]:
                engine.behaviour = refuses
            async with traced(model("support", *pods), ratio=1) as (gateway, heard):
                while not (pods[0].seen and pods[1].seen):
                    assert (await gateway.chat()).status_code == 200
            calls = {span.span_id: span for span in heard.spans if span.kind == "CLIENT"}
            told_all = [(engine.name, told(seen)) for engine in pods for seen in engine.seen]
            assert len(told_all) == len(calls)
            for name, parent in told_all:
                call = calls[parent[36:52]]
                assert call.attributes["k8s.pod.name"] == name
                assert call.failed == (name != pods[2].name)
                assert call.attributes.get("error.type") == ("status" if call.failed else None)
            assert not any(span.failed for span in heard.spans if span.kind == "SERVER"), "the client saw no error"

    run(scenario)


def test_what_was_held_or_given_up_says_so() -> None:
    async def scenario() -> None:
        async with engines() as [engine]:
            async with traced(model("support"), model("gone", hold_seconds=0.01), ratio=1) as (gateway, heard):
                early = asyncio.create_task(gateway.chat())
                lane = gateway.gateway.lanes["default/support"]
                await eventually(lambda: len(lane.waiting) == 1, "a request waits")
                gateway.pods("support", engine)
                assert (await early).status_code == 200
                assert (await gateway.chat("gone")).status_code == 503
            held, refused = (span for span in heard.spans if span.kind == "SERVER")
            assert held.attributes["llmops.held_seconds"] > 0
            assert (refused.failed, refused.attributes["error.type"]) == (True, "503")
            assert refused.attributes["llmops.attempts"] == 0

    run(scenario)


def test_a_receiver_that_is_away_costs_no_request() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            spans = Spans(f"http://127.0.0.1:{free_port()}", "gateway-0")
            gateway.gateway.tracer = Tracer(1, spans.write)
            for _ in range(30):
                assert (await gateway.chat()).status_code == 200
            await asyncio.get_running_loop().run_in_executor(None, spans.close)

    run(scenario)


def test_the_last_traces_are_sent_when_a_process_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engines() as [engine], receiver() as heard:
            async with started(tmp_path, engine, 1, "--traces", heard.url, "--trace-ratio", "1") as gateway:
                assert (await gateway.http.post("/v1/chat/completions", json=MESSAGE)).status_code == 200
                gateway.process.terminate()
                assert await gateway.process.wait() == 0
            assert {span.kind for span in heard.spans} == {"SERVER", "CLIENT"}

    run(scenario)
