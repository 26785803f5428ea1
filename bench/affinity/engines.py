"""`python -m bench.affinity.engines`: the same with real engines, vLLMs on this machine, by their own counters.

Chats of several turns through one gateway, some at a time, first with prefix affinity and then with the fewest in
flight. The engines' caches together hold 0.7 of the chats that are alive, and are emptied in between. What counts is
`vllm:prefix_cache_hits_total` of `vllm:prefix_cache_queries_total`: prompt tokens that were found, of all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from bench.gateway import legs
from hack.demo.install import ONE_PROCESS
from hack.images import venv
from hack.model import place
from hack.waiting import eventually

ENGINES, BLOCK_TOKENS, CACHE_SHARE = 4, 32, 0.7
CHATS, TURNS, ALIVE, AT_ONCE, ANSWER_TOKENS = 72, 6, 32, 6, 16
WORDS = ("list", "file", "name", "value", "key", "loop", "class", "string", "number", "error", "path", "module")
START_SECONDS = 600.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Engine:
    """A vLLM that listens on this port of the loopback."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self, process: subprocess.Popen[bytes], log: Path) -> bool:
        """Whether it serves; its log, when it has ended instead."""
        if process.poll() is not None:
            raise SystemExit(log.read_text()[-3000:])
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def counter(self, name: str) -> float:
        """One of its counters, over all labels."""
        text = httpx.get(f"{self.url}/metrics", trust_env=False).text
        return sum(float(value) for value in re.findall(rf"^vllm:{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def forget(self) -> None:
        """Empty its prefix cache."""
        httpx.post(f"{self.url}/reset_prefix_cache", trust_env=False).raise_for_status()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.affinity.engines", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write every figure there")
    given = parser.parse_args()
    model = place.path()
    if not model.exists():
        subprocess.run([sys.executable, "-m", "hack.model"], check=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-affinity-")))
        blocks = round(CACHE_SHARE * working_tokens() / ENGINES / BLOCK_TOKENS)
        engines = [Engine(port) for port in legs.free_ports(ENGINES)]
        logs = [directory / f"engine-{engine.port}.log" for engine in engines]
        processes = []
        for engine, log in zip(engines, logs, strict=True):
            processes.append(stack.enter_context(started(engine, model, log, blocks)))
            stack.callback(processes[-1].terminate)
        for engine, process, log in zip(engines, processes, logs, strict=True):
            eventually(partial(engine.answers, process, log), f"the vLLM of {log} to answer", START_SECONDS)
        results = {}
        for name, affine in (("prefix affinity", True), ("least loaded", False)):
            for engine in engines:
                engine.forget()
            results[name] = measured(directory, engines, affine=affine)
    show(results, blocks)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2))
    return 0


def question(chat: int, turn: int) -> str:
    """What is asked in this turn of this chat: its own words, about a hundred tokens of them."""
    return " ".join(random.Random(chat * 1000 + turn).choices(WORDS, k=70))


def working_tokens() -> int:
    """About how many tokens the chats that are alive have, half their turns over; a word is one to two tokens."""
    return round(ALIVE * (TURNS + 1) / 2 * (110 + ANSWER_TOKENS))


def started(engine: Engine, model: Path, log: Path, blocks: int) -> subprocess.Popen[bytes]:
    python = venv.ensure("engine") / "bin" / "python"
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", f"--model={model}"]
    command += ["--served-model-name=support", "--host=127.0.0.1", f"--port={engine.port}", "--enforce-eager"]
    command += [f"--block-size={BLOCK_TOKENS}", f"--num-gpu-blocks-override={blocks}", "--max-model-len=1536"]
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    settings |= {"VLLM_SERVER_DEV_MODE": "1", "TORCHDYNAMO_DISABLE": "1", **ONE_PROCESS}
    environment = {**legs.environment(), **settings, "HOME": str(log.parent)}
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


def measured(directory: Path, engines: list[Engine], *, affine: bool) -> Json:
    """All chats through a gateway of its own; what the engines say of it."""
    ports = [engine.port for engine in engines]
    gateway = legs.gateway(directory, ports, name=f"gateway-{affine}", keyed=False, affine=affine)
    names = ("prefix_cache_hits_total", "prefix_cache_queries_total", "request_success_total")
    before = [{name: engine.counter(name) for name in names} for engine in engines]
    try:
        legs.wait_until_serving(gateway)
        latencies = asyncio.run(talk(f"http://127.0.0.1:{gateway.port}"))
    finally:
        gateway.stop()
    found = [
        {name: engine.counter(name) - old[name] for name in names} for engine, old in zip(engines, before, strict=True)
    ]
    hits, queries = (sum(each[name] for each in found) for name in names[:2])
    return {
        "hitRate": hits / queries,
        "promptTokens": queries,
        "requests": [each["request_success_total"] for each in found],
        "medianSeconds": sorted(latencies)[len(latencies) // 2],
    }


async def talk(url: str) -> list[float]:
    """Turns of whichever chat is alive, so many at a time; one that is over gives way to the next. Seconds of each."""
    dice = random.Random(1)
    latencies: list[float] = []
    coming, idle = iter(range(ALIVE, CHATS)), list(range(ALIVE))
    histories: list[list[Json]] = [[] for _ in range(CHATS)]

    async def person(client: httpx.AsyncClient) -> None:
        while idle:
            chat = idle.pop(dice.randrange(len(idle)))
            messages = histories[chat]
            messages.append({"role": "user", "content": question(chat, len(messages))})
            body = {"model": "support", "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0}
            begun = time.monotonic()
            answer = (await client.post("/v1/chat/completions", json=body)).raise_for_status()
            latencies.append(time.monotonic() - begun)
            messages.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})
            following = chat if len(messages) < 2 * TURNS else next(coming, None)
            if following is not None:
                idle.append(following)

    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        await asyncio.gather(*(person(client) for _ in range(AT_ONCE)))
    return latencies


def show(results: dict[str, Json], blocks: int) -> None:
    print(f"{CHATS} chats of {TURNS} turns, {ENGINES} engines with {blocks} blocks of {BLOCK_TOKENS} tokens each")
    print(f"{'':20}{'hit rate':>10}{'of least loaded':>17}{'requests per engine':>22}{'median s':>10}")
    least = results["least loaded"]["hitRate"]
    for name, row in results.items():
        requests = " ".join(f"{count:.0f}" for count in row["requests"])
        print(
            f"{name:20}{row['hitRate']:10.3f}{row['hitRate'] / least:17.2f}{requests:>22}{row['medianSeconds']:10.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
