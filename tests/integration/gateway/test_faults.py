"""What clients and engines do wrong, in numbers: every case has one outcome, nothing hangs, nothing stays behind."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from bench.gateway.bad import GOOD, KINDS, PATH, message
from bench.gateway.reference import read
from llmops_serving.gateway import route
from llmops_serving.gateway.gateway import Options
from llmops_serving.gateway.keys import Key, keyring
from tests.integration.gateway import engine as stub
from tests.integration.gateway.engine import Engine, Seen
from tests.integration.gateway.rig import Rig, engines, eventually, model, rig, run
from tests.integration.gateway.test_process import Started, started

SECONDS = 120.0
AT_ONCE = 50
CHAT = b'{"model":"support","messages":[]}'


async def answer_of(port: int, data: bytes, pieces: int = 1) -> bytes:
    """Send on a connection of its own, in so many pieces, and end; all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(SECONDS):
            size = max(1, len(data) // pieces)
            for at in range(0, len(data), size):
                writer.write(data[at : at + size])
                await writer.drain()
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


async def many(cases: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """All of them, some at once."""
    waiting = iter(cases)

    async def worker() -> None:
        for case in waiting:
            await case()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def test_bad_requests_of_thirty_kinds_are_each_told_what_is_wrong() -> None:
    async def scenario() -> None:
        rng = random.Random(1)
        async with engines() as [engine], rig(model("support", engine)) as gateway:

            async def one(kind: str) -> None:
                make, statuses = KINDS[kind]
                data = make(rng)
                if b"\r\n\r\n" not in data[:-1]:
                    data += b"\r\n\r\n"
                closing = data.replace(b"Host: gateway\r\n", b"Host: gateway\r\nConnection: close\r\n", 1)
                found = await answer_of(gateway.port, closing, rng.randrange(1, 4))
                assert status(found) in statuses, f"{kind}: {data[:200]!r} was answered with {found[:200]!r}"
                assert json.loads(found.rpartition(b"\r\n\r\n")[2])["error"]["message"]

            await many([lambda kind=kind: one(kind) for kind in KINDS for _ in range(30)])
            assert len(KINDS) == 30
            assert not engine.seen
            assert (await gateway.chat()).status_code == 200

    run(scenario)


LENGTHS = [
    "Content-Length: {n}",
    "Content-Length: 0",
    "Content-Length: {n}\r\nContent-Length: {n}",
    "content-length:{n}",
    "Content-Length: +{n}",
    "Content-Length: {n}, {n}",
    "Content-Length : {n}",
    "X: y\r\n Content-Length: {n}",
    "",
]
ENCODINGS = [
    "",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: chunked, chunked",
    "transfer-encoding: CHUNKED",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "X: y\nTransfer-Encoding: chunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer_Encoding: chunked",
]
HIDDEN = message(b'{"model":"support","messages":["hidden"]}')
BODIES = [
    CHAT,
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT),
    b"0\r\n\r\n" + HIDDEN,
    CHAT + HIDDEN,
    b"",
    b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT),
    b"%x\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT),
]
VERSIONS = ["HTTP/1.1", "HTTP/1.0", "HTTP/1.1\r\nConnection: keep-alive, content-length"]


def test_two_thousand_desyncs_reach_the_engine_as_a_strict_reader_understands_them() -> None:
    cases = [
        f"POST {PATH} {version}\r\nHost: a\r\n".encode() + b"\r\n".join(lines) + b"\r\n\r\n" + body + message(CHAT)
        for version, length, encoding, body in itertools.product(VERSIONS, LENGTHS, ENCODINGS, BODIES)
        for lines in [[line.format(n=len(CHAT)).encode("latin-1") for line in (length, encoding) if line]]
    ]
    cases = [case for case in cases if b"\r\n\r\n\r\n" not in case[:120]]
    assert len(cases) >= 2000

    def understood(data: bytes) -> list[bytes]:
        return [body for _, _, body in read(data, route.ENGINE_PATHS).requests if b'"model"' in body]

    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            expected = 0

            async def one(number: int, case: bytes) -> None:
                nonlocal expected
                marked = case.replace(b'"messages"', b'"n%07d"' % number)
                bodies = [body for body in understood(marked) if is_json(body)]
                expected += len(bodies)
                found = await answer_of(gateway.port, marked + b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
                seen = [each.body for each in engine.seen if b'"n%07d"' % number in each.body]
                assert sorted(seen) == sorted(bodies), f"{marked!r} was answered with {found!r}"

            await many([lambda number=number, case=case: one(number, case) for number, case in enumerate(cases)])
            assert len(engine.seen) == expected > 20

    run(scenario)


def is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


TARGETS = [
    PATH,
    "//v1/models",
    "/v1//models",
    "/v1/models",
    "/V1/models",
    "/v1/models/",
    "/healthz/../v1/models",
    "/./v1/models",
    "/healthz%2f..%2fv1%2fmodels",
    "/healthz;/v1/models",
    "/v1/models?x=/healthz",
    "/readyz/v1/models",
    "/metrics",
    "/loadstream",
    "/healthz\\..\\v1\\models",
    "/v1/completions#/healthz",
    "/%76%31/models",
    "/v1/load_lora_adapter",
    "/invocations",
    "/pause",
]
TRICKS = [
    "",
    "Authorization: Bearer",
    "Authorization: Bearer ",
    "Authorization: bearer x",
    "Authorization: Basic c2stYTo=",
    "Authorization: Bearer sk-a sk-b",
    "Authorization: sk-good",
    "Authorization: Bearer sk-good\x00",
    "Authorization: Bearer\tsk-good",
    "Proxy-Authorization: Bearer sk-good",
    "X-Api-Key: sk-good",
    "Api-Key: sk-good",
    "X-LLMOps-Tenant: a",
    "X-Forwarded-For: 127.0.0.1",
    "X-Original-URL: /healthz",
    "X-Rewrite-URL: /healthz",
    "Cookie: Authorization=Bearer sk-good",
    "Connection: authorization",
    "Authorization: Bearer sk-revoked",
    "X-HTTP-Method-Override: GET",
    "Forwarded: for=127.0.0.1;host=gateway",
    "Authorization_: Bearer sk-good",
    "Authorization : Bearer sk-good",
    "X: y\r\n Authorization: Bearer sk-good",
    "Authorization: Bearer SK-GOOD",
]


def test_five_hundred_ways_around_the_keys_lead_nowhere() -> None:
    assert len(TARGETS) * len(TRICKS) == 500

    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            good, revoked = (
                Key(secret, hashlib.sha256(secret.encode()).digest(), "a", frozenset("*"))
                for secret in ("sk-good", "sk-revoked")
            )
            gateway.gateway.admit_keys(keyring([good, revoked]))
            gateway.gateway.admit_keys(keyring([good]))

            async def one(target: str, trick: str) -> None:
                method = "POST" if target == PATH else "GET"
                lines = [line for line in ("Connection: close", trick) if line]
                data = message(CHAT, *lines, first=f"{method} {target} HTTP/1.1")
                found = status(await answer_of(gateway.port, data))
                assert found in (400, 401), f"{data!r} was answered with {found}"

            await many([lambda pair=pair: one(*pair) for pair in itertools.product(TARGETS, TRICKS)])
            assert not engine.seen
            allowed = message(CHAT, "Connection: close", "Authorization: Bearer sk-good")
            assert status(await answer_of(gateway.port, allowed)) == 200

    run(scenario)


def test_a_body_of_64_mib_passes_and_a_byte_more_is_refused_unread() -> None:
    async def scenario() -> None:
        options = Options()
        async with engines() as [engine], rig(model("support", engine), options=options) as gateway:
            frame = len(b'{"model":"support","messages":[""]}')
            body = b'{"model":"support","messages":["%b"]}' % (b"x" * (options.max_body_bytes - frame))
            response = await gateway.http.post(PATH, content=body)
            assert (response.status_code, engine.seen[0].body == body) == (200, True)
            head = message(b"", length=str(options.max_body_bytes + 1))
            assert status(await answer_of(gateway.port, head)) == 413
            assert gateway.gateway.buffered == 0

    run(scenario)


def test_a_prompt_is_let_go_when_its_answer_begins() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            engine.tokens, engine.token_seconds = 1000, 0.01
            body = b'{"model":"support","stream":true,"messages":["%b"]}' % (b"x" * (1 << 20))
            async with gateway.http.stream("POST", PATH, content=body) as response:
                held = None
                async for _ in response.aiter_bytes():
                    held = gateway.gateway.buffered
                    break
            assert (response.status_code, held) == (200, 0)

    run(scenario)


def test_a_client_that_drips_is_told_that_it_is_too_slow() -> None:
    async def drip(gateway: Rig, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(data)
        try:
            async with asyncio.timeout(SECONDS):
                return await reader.read()
        finally:
            writer.close()

    async def scenario() -> None:
        options = Options(head_seconds=0.2, body_grace_seconds=0.2, idle_seconds=0.2)
        async with engines() as [engine], rig(model("support", engine), options=options) as gateway:
            half = message(GOOD)
            begun = [drip(gateway, half[:40]), drip(gateway, half[:-5]), drip(gateway, b"")]
            found = await asyncio.gather(*begun)
            assert [status(each) for each in found] == [408, 408, 0], "who sent nothing is not answered"
            assert not engine.seen

    run(scenario)


def test_an_engine_that_drips_its_answer_is_waited_for() -> None:
    async def dripping(engine: Engine, seen: Seen, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for byte in stub.answer(seen.document, engine.name):
            writer.write(bytes([byte]))
            await writer.drain()
        return True

    async def scenario() -> None:
        async with engines() as [engine], rig(model("support", engine)) as gateway:
            engine.behaviour = dripping
            assert (await gateway.chat()).json()["choices"][0]["message"]["content"] == "hello from engine-0"

    run(scenario)


def test_a_killed_gateway_tells_those_it_held_and_the_others_hold_on(tmp_path: Path) -> None:
    routes = {"models": [{"name": "support", "endpoints": [], "maxHeld": 300}]}

    async def held(gateway: Started) -> int:
        """The status, 0 when the connection ended without an answer."""
        return status(await answer_of(gateway.http.base_url.port or 0, message(CHAT, "Connection: close")))

    async def waiting(gateway: Started) -> int:
        text = (await gateway.http.get(f"{gateway.internal}/metrics")).text
        return sum(
            int(float(line.rpartition(" ")[2])) for line in text.splitlines() if line.startswith("llmops_gateway_held")
        )

    async def until_waiting(gateway: Started, count: int) -> None:
        async with asyncio.timeout(SECONDS):
            while await waiting(gateway) != count:  # noqa: ASYNC110 - a page has no event
                await asyncio.sleep(0.05)

    async def scenario() -> None:
        async with (
            engines() as [engine],
            started(tmp_path, engine, 1, routes=routes) as doomed,
            started(tmp_path, engine, 1, routes=routes) as survivor,
        ):
            with_doomed = [asyncio.create_task(held(doomed)) for _ in range(200)]
            with_survivor = [asyncio.create_task(held(survivor)) for _ in range(50)]
            await until_waiting(doomed, 200)
            await until_waiting(survivor, 50)
            doomed.process.kill()
            assert set(await asyncio.gather(*with_doomed)) == {0}, "a closed connection, at once: safe to try again"
            again = [asyncio.create_task(held(survivor)) for _ in range(200)]
            await until_waiting(survivor, 250)
            survivor.routes.write_text(json.dumps({"models": [{"name": "support", "endpoints": [engine.address]}]}))
            assert set(await asyncio.gather(*with_survivor, *again)) == {200}
            await eventually(lambda: len(engine.seen) == 250, "each once")

    run(scenario)
