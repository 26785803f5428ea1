"""The gateway as it is started: several workers behind one port, one metrics page, one load stream, a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import free_port
from tests.integration.gateway.engine import Engine
from tests.integration.gateway.rig import engines, eventually, run

ROOT = Path(__file__).parents[3]


@dataclass
class Started:
    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    internal: str
    routes: Path


@contextlib.asynccontextmanager
async def started(
    tmp_path: Path,
    engine: Engine,
    workers: int,
    *flags: str,
    keys: Sequence[dict[str, object]] = (),
    internal: int = 0,
    routes: dict[str, object] | None = None,
) -> AsyncIterator[Started]:
    port, internal = free_port(), internal or free_port()
    path = tmp_path / f"routes-{port}.yaml"
    default = {"models": [{"name": "support", "endpoints": [engine.address]}], "keys": list(keys)}
    path.write_text(json.dumps(routes or default))
    command = ["-m", "llmops_serving.gateway", "--routes", str(path), "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--metrics-port",
        str(internal),
        "--workers",
        str(workers),
        *(["--require-keys"] if keys else []),
        *flags,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "POD_NAME": "gateway-0"}
    process = await asyncio.create_subprocess_exec(sys.executable, *command, env=environment)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
        try:
            async with asyncio.timeout(120):
                await until_ready(http, f"http://127.0.0.1:{internal}/readyz")
            yield Started(process, http, f"http://127.0.0.1:{internal}", path)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await process.wait()


async def until_ready(http: httpx.AsyncClient, url: str) -> None:
    while True:
        with contextlib.suppress(httpx.TransportError):
            if (await http.get(url)).status_code == 200:
                return
        await asyncio.sleep(0.05)


async def chat(gateway: Started) -> httpx.Response:
    """On a connection of its own, so that the kernel chooses a worker anew."""
    headers = {"Connection": "close"}
    return await gateway.http.post("/v1/chat/completions", json={"model": "support", "messages": []}, headers=headers)


@pytest.mark.parametrize("workers", [1, 3])
def test_all_workers_are_one_gateway(tmp_path: Path, workers: int) -> None:
    async def scenario() -> None:
        async with engines() as [engine], started(tmp_path, engine, workers) as gateway:
            async with gateway.http.stream("GET", f"{gateway.internal}/loadstream") as response:
                lines = response.aiter_lines()
                assert json.loads(await anext(lines))["gateway"].startswith("gateway-0-")
                line: dict[str, object] = {}
                while "heartbeat" not in line:
                    line = json.loads(await anext(lines))
                answers = await asyncio.gather(*(chat(gateway) for _ in range(30)))
                assert {answer.status_code for answer in answers} == {200}
                arrivals, tokens, in_flight = 0, 0, -1
                async with asyncio.timeout(60):
                    while (arrivals, tokens, in_flight) != (30, 90, 0):
                        line = json.loads(await anext(lines))
                        if "model" in line:
                            arrivals += int(str(line["arrivals"]))
                            tokens += int(str(line["completionTokens"]))
                            in_flight = int(str(line["inFlight"]))
            text = (await gateway.http.get(f"{gateway.internal}/metrics")).text
            [count] = [each for each in text.splitlines() if each.startswith("llmops_gateway_requests_total{")]
            assert count.endswith(" 30")

    run(scenario)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_lets_requests_finish(tmp_path: Path, workers: int) -> None:
    async def scenario() -> None:
        async with engines() as [engine], started(tmp_path, engine, workers) as gateway:
            engine.token_seconds = 0.2
            answer = asyncio.create_task(chat(gateway))
            await eventually(lambda: bool(engine.seen), "the request is under way")
            gateway.process.send_signal(signal.SIGTERM)
            assert (await answer).status_code == 200
            assert await asyncio.wait_for(gateway.process.wait(), 60) == 0

    run(scenario)
