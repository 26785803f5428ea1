"""API keys: who gets in, what they may use, and how they are told that it is enough."""

from __future__ import annotations

import asyncio
import hashlib
import json

import httpx
import pytest

from llmops_serving.gateway.audit import AuditLog
from llmops_serving.gateway.keys import Key, keyring
from llmops_serving.gateway.table import Model
from tests.integration.gateway.engine import Engine
from tests.integration.gateway.rig import Rig, endpoint, engines, eventually, rig, run


def key(secret: str, tenant: str, *models: str, **limits: int) -> Key:
    digest = hashlib.sha256(secret.encode()).digest()
    return Key(secret, digest, tenant, frozenset(models), **limits)


def owned(namespace: str, name: str, engine: Engine) -> Model:
    return Model(namespace, name, name, endpoints=(endpoint(engine),))


async def ask(gateway: Rig, secret: str, model: str, **headers: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}", **headers}
    return await gateway.http.post("/v1/chat/completions", json={"model": model, "messages": []}, headers=headers)


REFUSED = [
    ("no key", {}),
    ("an unknown key", {"Authorization": "Bearer sk-b0gus"}),
    ("a scheme without a key", {"Authorization": "Bearer"}),
    ("a key with a tail", {"Authorization": "Bearer sk-ax"}),
    ("another scheme", {"Authorization": "Basic sk-a"}),
    ("the key's hash", {"Authorization": "Bearer " + hashlib.sha256(b"sk-a").hexdigest()}),
    ("a key in another header", {"X-Api-Key": "sk-a"}),
    ("a spoofed tenant", {"X-LLMOps-Tenant": "a", "X-Forwarded-User": "a"}),
    ("a key of half a megabyte", {"Authorization": "Bearer " + "k" * 20_000}),
]


@pytest.mark.parametrize("headers", [case[1] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_nobody_gets_in_with(headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(owned("a", "support", engine)) as gateway:
            gateway.gateway.admit_keys(keyring([key("sk-a", "a", "*")]))
            paths = ["/v1/chat/completions", "/v1/models", "/v1/completions", "/v1/none", "/v1/%2e%2e/healthz", "//v1"]
            for path in paths:
                for method in ("POST", "GET"):
                    response = await gateway.http.request(method, path, headers=headers)
                    assert response.status_code == 401, f"{method} {path}"
            assert not engine.seen
            assert (await gateway.http.get("/healthz")).status_code == 200

    run(scenario)


def test_a_tenant_never_reaches_the_model_of_another() -> None:
    async def scenario() -> None:
        async with engines(2) as [mine, theirs]:
            models = [owned("a", "support", mine), owned("b", "support", theirs), owned("b", "secret", theirs)]
            async with rig(*models) as gateway:
                gateway.gateway.admit_keys(keyring([key("sk-a", "a", "a/*"), key("sk-b", "b", "b/secret")]))
                assert (await ask(gateway, "sk-a", "a/support")).status_code == 200
                assert (await ask(gateway, "sk-a", "support")).status_code == 200, "only one of the two is visible"
                for name in ("b/support", "b/secret", "secret", "a/../b/secret", "b/secret ", "A/support"):
                    assert (await ask(gateway, "sk-a", name)).status_code == 404, name
                assert not theirs.seen
                listed = await gateway.http.get("/v1/models", headers={"Authorization": "Bearer sk-a"})
                assert [entry["id"] for entry in listed.json()["data"]] == ["a/support"]
                listed = await gateway.http.get("/v1/models", headers={"Authorization": "Bearer sk-b"})
                assert [entry["id"] for entry in listed.json()["data"]] == ["secret"]

    run(scenario)


def test_a_revoked_key_is_refused_at_once_also_on_an_open_connection() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(owned("a", "support", engine)) as gateway:
            gateway.gateway.admit_keys(keyring([key("sk-a", "a", "*")]))
            assert (await ask(gateway, "sk-a", "support")).status_code == 200
            gateway.gateway.admit_keys(keyring([]))
            assert (await ask(gateway, "sk-a", "support")).status_code == 401

    run(scenario)


def test_requests_per_minute_end_in_429_with_a_time_to_come_back() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(owned("a", "support", engine)) as gateway:
            gateway.gateway.admit_keys(keyring([key("sk-a", "a", "*", requests_per_minute=3)]))
            answers = [await ask(gateway, "sk-a", "support") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert answers[0].headers["x-ratelimit-remaining-requests"] == "2"
            assert 1 <= int(answers[3].headers["retry-after"]) <= 20
            assert answers[3].headers["x-ratelimit-limit-requests"] == "3"
            assert (
                await gateway.metric(
                    'llmops_gateway_requests_total{namespace="a",model="support",adapter="",tenant="a"'
                )
                == 3
            )

    run(scenario)


def test_the_audit_log_names_the_key_and_holds_nothing_that_was_said() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(owned("a", "support", engine)) as gateway:
            written: list[bytes] = []
            gateway.gateway.audit = AuditLog(written.append)
            gateway.gateway.admit_keys(keyring([key("sk-secret", "a", "*")]))
            body = {"model": "support", "messages": [{"role": "user", "content": "what-was-said"}]}
            headers = {"Authorization": "Bearer sk-secret"}
            answer = await gateway.http.post("/v1/chat/completions", json=body, headers=headers)
            gateway.gateway.audit.flush()
            [line] = [json.loads(line)["audit"] for line in b"".join(written).splitlines()]
            told = {name: line[name] for name in ("model", "adapter", "tenant", "status", "tokens")}
            assert told == {"model": "a/support", "adapter": "", "tenant": "a", "status": 200, "tokens": 15}
            assert line.keys() == {*told, "at", "key", "seconds"}
            for said in (b"what-was-said", answer.json()["choices"][0]["message"]["content"].encode()):
                assert said not in b"".join(written)

    run(scenario)


def test_requests_at_once_are_limited_and_freed() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(owned("a", "support", engine)) as gateway:
            gateway.gateway.admit_keys(keyring([key("sk-a", "a", "*", concurrency=1)]))
            engine.token_seconds = 0.1
            first = asyncio.create_task(ask(gateway, "sk-a", "support"))
            await eventually(lambda: bool(engine.seen), "the first is under way")
            assert (await ask(gateway, "sk-a", "support")).status_code == 429
            assert (await first).status_code == 200
            assert (await ask(gateway, "sk-a", "support")).status_code == 200

    run(scenario)


def test_a_months_tokens_are_counted_as_the_engine_counts_them() -> None:
    async def scenario() -> None:
        async with engines() as [engine], rig(owned("a", "support", engine)) as gateway:
            gateway.gateway.admit_keys(keyring([key("sk-a", "a", "*", monthly_tokens=30)]))
            answers = [await ask(gateway, "sk-a", "support") for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429], "fifteen tokens each"

    run(scenario)
