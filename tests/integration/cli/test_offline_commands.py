"""Commands that need no cluster: talking to a gateway by its URL, replaying a trace, help."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.integration.cli.conftest import Cli

TRACE = Path(__file__).parents[2] / "data" / "azure-llm-2023-conv.csv"


class Gateway:
    """A gateway as clients see it: an OpenAI-compatible stream, by the model's name."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization"))
        if body["model"] == "missing":
            return web.json_response({"error": {"message": "no model named missing"}}, status=404)
        if body["model"] == "busy":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "7"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": still loading\n\n")
        for word in ("It ", "works", "."):
            chunk = {"choices": [{"delta": {"content": word}}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        if body["model"] == "broken":
            await response.write(b'data: {"error": {"message": "the replica went away"}}\n\n')
        elif body["model"] != "cut":
            await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    gateway.start()
    yield gateway
    gateway.stop()


@pytest.fixture
def offline(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "no-kubeconfig")


def test_chat_prints_the_answer_as_it_comes(gateway: Gateway, offline: Cli) -> None:
    answer = offline("chat", "support", "Does it?", "--url", gateway.url, "--key", "llm-x", "--max-tokens", "5")
    assert (answer.code, answer.out) == (0, "It works.\n")
    assert "the question is held until" in answer.err
    assert gateway.keys == ["Bearer llm-x"]
    assert gateway.bodies[0] == {
        "model": "support",
        "stream": True,
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "Does it?"}],
    }


def test_chat_takes_the_question_from_a_pipe(gateway: Gateway, offline: Cli) -> None:
    assert offline("chat", "support", "--url", f"{gateway.url}/v1", stdin="Does it?").out == "It works.\n"
    assert gateway.bodies[0]["messages"][0]["content"] == "Does it?"


@pytest.mark.parametrize(
    ("model", "code", "says"),
    [
        pytest.param("missing", 3, "no model named missing", id="no such model"),
        pytest.param("busy", 1, "slow down (try again in 7 s)", id="too many requests"),
        pytest.param("broken", 1, "the replica went away", id="an error in the middle"),
        pytest.param("cut", 1, "cut off", id="a stream without an end"),
    ],
)
def test_chat_says_what_went_wrong(gateway: Gateway, offline: Cli, model: str, code: int, says: str) -> None:
    answer = offline("chat", model, "hi", "--url", gateway.url)
    assert answer.code == code
    assert says in answer.err
    assert "Traceback" not in answer.err


def test_chat_with_nobody_there(offline: Cli) -> None:
    assert offline("chat", "support", "hi", "--url", "http://127.0.0.1:1").code == 5


def test_simulate_replays_the_trace(offline: Cli) -> None:
    answer = offline("simulate", "scaling", "--trace", str(TRACE), "--max", "30", "-o", "json")
    assert answer.code == 0
    assert answer.json["requests"] == 19_366
    assert answer.json["autoscaler"]["reversals"] == 0


def test_simulate_takes_the_limits_of_a_manifest(offline: Cli, tmp_path: Path) -> None:
    manifest = tmp_path / "llm.yaml"
    manifest.write_text(
        "{apiVersion: llmops.dev/v1alpha1, kind: LLMDeployment, metadata: {name: a, namespace: b}, "
        "spec: {model: {source: 'hf://o/m'}, autoscaling: {maxReplicas: 2, target: {concurrency: 16}}}}"
    )
    answer = offline("simulate", "scaling", "--trace", str(TRACE), "-f", str(manifest), "-o", "json")
    assert answer.json["autoscaler"]["peak"] == 2


def test_a_trace_of_another_shape_is_refused(offline: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    answer = offline("simulate", "scaling", "--trace", str(tmp_path / "bad.csv"))
    assert (answer.code, "Traceback" in answer.err) == (2, False)


def test_help_names_every_command(offline: Cli) -> None:
    shown = offline("--help").out
    for command in ("status", "chat", "explain", "simulate", "lint", "keys", "logs", "doctor", "report"):
        assert command in shown
    assert "Exit codes" in shown


def test_help_imports_nothing_heavy() -> None:
    """Start-up is imports; their number is a fact, their time depends on who else is on the machine."""
    code = (
        "import sys; from llmops.cli import application; application();"
        "heavy = {'kubernetes', 'httpx', 'pydantic', 'aiohttp', 'yaml', 'rich'};"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
