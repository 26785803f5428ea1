"""A gateway that answers, Prometheus that scrapes it, Alertmanager that hears of it: real processes on loopback."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from csv import DictReader
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from hack.cluster import tools
from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually
from llmops.api.drift import SERIES
from llmops_serving.gateway.metrics import Metrics
from llmops_serving.gateway.usage import Usage
from tests.integration.conftest import free_port
from tests.integration.drift.conftest import program
from tests.integration.gateway.engine import Engine, Seen

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "manifests" / "examples" / "monitoring"
NAMESPACE, MODEL = "team-a", "support"
LEARNED = tuple(each.metric for each in SERIES.values())
RULES_LABEL = "llmops.dev/prometheus-rules=true"
WEEK_SECONDS = 604_800
PATIENCE_SECONDS = 240  # what takes seconds on an idle machine
Json = dict[str, Any]
_LANGUAGES = ("en", "de", "fr", "es")


@dataclass(frozen=True)
class Request:
    """One request of a trace, as the engine's usage will tell it."""

    prompt: int
    completion: int
    reason: str


def conversation(seed: int | None) -> list[Request]:
    """The requests of the Azure 2023 conversation trace; with a seed in another order, without its own unrest."""
    rows = list(DictReader((ROOT / "tests/data/azure-llm-2023-conv.csv").open()))
    found = [
        Request(int(row["ContextTokens"]), int(row["GeneratedTokens"]), "length" if index % 16 == 0 else "stop")
        for index, row in enumerate(rows)
    ]
    if seed is not None:
        random.Random(seed).shuffle(found)
    return found


def completing(requests: Sequence[Request], seed: int, *, share: float) -> list[Request]:
    """The same with a second workload mixed in: short answers, as code completion gives them (median 13 tokens)."""
    chance = random.Random(seed)
    return [
        Request(each.prompt, max(1, round(chance.lognormvariate(2.565, 0.7))), "stop")
        if chance.random() < share
        else each
        for each in requests
    ]


def recorded(
    requests: Sequence[Request],
    *,
    per_second: int,
    every: int,
    end: float,
    weeks: int = 1,
    of: tuple[str, str] = (NAMESPACE, MODEL),
) -> Iterator[str]:
    """What would have been scraped from a gateway that answered these requests until `end`: its own pages, dated.

    With more `weeks` than one, the same in those before.
    """
    metrics = Metrics()
    series = metrics.of((*of, "", "", "chat"))
    pages = [requests[at : at + per_second * every] for at in range(0, len(requests), per_second * every)]
    kept: dict[str, list[tuple[str, float]]] = {}
    for index, page in enumerate(pages, start=1):
        for each in page:
            series.prompt_tokens.observe(each.prompt)
            series.completion_tokens.observe(each.completion)
            # What the trace does not tell is made up of what it tells, so that every signal has a distribution.
            offered = series.asked({"max_tokens": 64 << each.prompt % 6, "tools": ["any"] * (each.prompt % 3)})
            cached = each.prompt * (each.completion % 5) // 4
            series.answered(Usage(each.prompt, each.completion, each.reason, cached), tools=offered)
            series.ended(429 if each.prompt % 11 == 0 else 200, 0.1)
            rare = "yes" if each.prompt % 10 == 0 else "no"
            said = {"empty": "no", "refusal": rare, "repetition": rare, "language": _LANGUAGES[each.prompt % 4]}
            series.looked_at(said | {"json": "invalid" if each.completion % 10 == 0 else "valid"})
        at = end - (len(pages) - index) * every
        for line in metrics.text([]).splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.startswith(LEARNED):
                kept.setdefault(sample, []).append((value, at))
    for sample, values in kept.items():
        for back in range(weeks - 1, -1, -1):
            yield from (f"{sample} {value} {at - back * WEEK_SECONDS:.3f}\n" for value, at in values)
    yield "# EOF\n"


class Clients:
    """Requests at a steady rate through a gateway, in a thread of their own; `body` is what is sent for one."""

    def __init__(self, body: Callable[[Request], Json]) -> None:
        self.sent = 0
        self.failures: list[str] = []
        self._body = body
        self._requests: Iterator[Request] = iter(())
        self._per_second = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._over = False

    @contextmanager
    def sending(self, url: str) -> Iterator[None]:
        """Send to a gateway; what was begun is finished before this ends."""
        sender = asyncio.run_coroutine_threadsafe(self._send(url), self._loop)
        try:
            yield
        finally:
            self._over = True
            sender.result(PATIENCE_SECONDS)

    def of(self, requests: Sequence[Request], per_second: float) -> None:
        """Send these from now on, again and again."""
        self._requests, self._per_second = itertools.cycle(requests), per_second

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    async def _send(self, url: str) -> None:
        limits = httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as client:
            running = set[asyncio.Task[None]]()
            while not self._over:
                if self._per_second:
                    running.add(task := asyncio.create_task(self._one(client, next(self._requests))))
                    task.add_done_callback(running.discard)
                await asyncio.sleep(1 / (self._per_second or 20))
            await asyncio.gather(*running)

    async def _one(self, client: httpx.AsyncClient, request: Request) -> None:
        try:
            answer = await client.post("/v1/chat/completions", json=self._body(request))
        except httpx.TransportError as problem:
            self.failures.append(repr(problem))
            return
        self.sent += 1
        if answer.status_code != 200 or _told(answer.json()) != request:
            self.failures.append(answer.text)


class Load(Clients):
    """Clients, and the engine, which answers as they say."""

    def __init__(self) -> None:
        super().__init__(_body)
        self._engine = asyncio.run_coroutine_threadsafe(Engine(behaviour=_answer).start(), self._loop).result(30)

    @property
    def address(self) -> str:
        return self._engine.address

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._engine.stop(), self._loop).result(30)
        super().stop()

    async def _one(self, client: httpx.AsyncClient, request: Request) -> None:
        self._engine.seen.clear()
        await super()._one(client, request)


def _body(request: Request) -> Json:
    said = {"p": str(request.prompt), "c": str(request.completion), "reason": request.reason}
    return {"model": MODEL, "messages": [], "metadata": said}


def _told(answer: Json) -> Request:
    usage = answer["usage"]
    return Request(usage["prompt_tokens"], usage["completion_tokens"], answer["choices"][0]["finish_reason"])


async def _answer(_engine: Engine, seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    said = seen.document["metadata"]
    usage = {"prompt_tokens": int(said["p"]), "completion_tokens": int(said["c"])}
    choice = {"index": 0, "message": {"role": "assistant", "content": "t"}, "finish_reason": said["reason"]}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    await writer.drain()
    return True


@contextmanager
def process(command: Sequence[str | Path], log: Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as out:
        started = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out, **how)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
            started.wait(60)


def up(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until it answers; a process that ends instead says why."""

    def look() -> bool:
        assert server.poll() is None, log.read_text()[-2000:]
        return answers(url)

    eventually(look, url, PATIENCE_SECONDS)


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    return False


@contextmanager
def gateway(home: Path, engine: str) -> Iterator[tuple[str, str]]:
    """A gateway process; its addresses for clients and for Prometheus."""
    port, internal = free_port(), free_port()
    routes = {"models": [{"namespace": NAMESPACE, "name": MODEL, "endpoints": [engine], "textSample": 0.2}]}
    (home / "routes.yaml").write_text(json.dumps(routes))
    command = [sys.executable, "-m", "llmops_serving.gateway", "--routes", home / "routes.yaml", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--metrics-port", str(internal)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'serving'}", "POD_NAME": "gateway-0"}
    with process(command, home / "gateway.log", env=environment) as server:
        up(server, f"http://127.0.0.1:{internal}/readyz", home / "gateway.log")
        yield f"http://127.0.0.1:{port}", f"127.0.0.1:{internal}"


@contextmanager
def alertmanager(home: Path) -> Iterator[str]:
    """Alertmanager with the example's routes and inhibitions; its address."""
    home.mkdir()
    wanted = yaml.safe_load((EXAMPLES / "alertmanager.yaml").read_text())
    wanted["route"]["group_wait"] = "0s"
    (home / "alertmanager.yaml").write_text(yaml.safe_dump(wanted))
    where = f"127.0.0.1:{free_port()}"
    command: list[str | Path] = [tools.program("alertmanager", "alertmanager")]
    command += ["--config.file=alertmanager.yaml", "--storage.path=data", f"--web.listen-address={where}"]
    with process([*command, "--cluster.listen-address="], home / "log", cwd=home) as server:
        up(server, f"http://{where}/-/ready", home / "log")
        yield where


@dataclass
class Prometheus:
    """One Prometheus, and the Alertmanager it tells."""

    url: str
    home: Path
    command: list[str | Path]
    alertmanager: str
    _process: ExitStack = field(default_factory=ExitStack)

    @property
    def rules(self) -> Path:
        """Where its rule files lie."""
        return self.home / "rules"

    def restart(self) -> None:
        """End its process and start another on what it has stored."""
        self.stop()
        log = self.home / "log"
        up(self._process.enter_context(process(self.command, log, cwd=self.home)), f"{self.url}/-/ready", log)

    def stop(self) -> None:
        """End its process."""
        self._process.close()

    def query(self, expression: str) -> list[Json]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=30, trust_env=False)
        found: list[Json] = answer.raise_for_status().json()["data"]["result"]
        return found

    def take(self, files: dict[str, str]) -> None:
        """Have exactly these rule files, as a sidecar does it."""
        if {path.name: path.read_text() for path in self.rules.iterdir()} == files:
            return
        for path in self.rules.iterdir():
            path.unlink()
        for name, text in files.items():
            (self.rules / name).write_text(text)
        httpx.post(f"{self.url}/-/reload", timeout=60, trust_env=False).raise_for_status()

    def alerts(self) -> list[Json]:
        """What its Alertmanager has been told and not told the end of."""
        found: list[Json] = (
            httpx.get(f"http://{self.alertmanager}/api/v2/alerts", timeout=30, trust_env=False)
            .raise_for_status()
            .json()
        )
        return [each for each in found if each["labels"]["alertname"] == "LLMTrafficDrift"]


@contextmanager
def prometheus(home: Path, version: str, scraped: str, history: Iterator[str]) -> Iterator[Prometheus]:
    """Prometheus of a version with the example's configuration and this past; scraping a gateway every second."""
    home.mkdir()
    rules = home / "rules"
    rules.mkdir()
    with alertmanager(home / "alertmanager") as told:
        wanted = yaml.safe_load((EXAMPLES / "prometheus.yaml").read_text())
        wanted["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        wanted["rule_files"] = [f"{rules}/*.yaml"]
        job = wanted["scrape_configs"][0]
        wanted["scrape_configs"] = [
            {
                "job_name": job["job_name"],
                "honor_labels": job["honor_labels"],
                "static_configs": [{"targets": [scraped]}],
            }
        ]
        wanted["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [told]}]
        (home / "prometheus.yaml").write_text(yaml.safe_dump(wanted))
        with (home / "history.om").open("w") as file:
            file.writelines(history)
        blocks = [program("promtool", version), "tsdb", "create-blocks-from", "openmetrics", "history.om", "data"]
        subprocess.run(blocks, cwd=home, check=True, capture_output=True)
        where = f"127.0.0.1:{free_port()}"
        command = [program("prometheus", version), "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
        command += [f"--web.listen-address={where}", "--web.enable-lifecycle"]
        server = Prometheus(f"http://{where}", home, command, told)
        try:
            server.restart()
            yield server
        finally:
            server.stop()


@contextmanager
def sidecar(plane: ControlPlane, servers: Sequence[Prometheus]) -> Iterator[None]:
    """What brings ConfigMaps with the rules' label of every namespace to the Prometheuses, once a second."""
    over = threading.Event()

    def carry() -> None:
        while not over.wait(1):
            found = json.loads(plane.kubectl("get", "configmaps", "-A", "-l", RULES_LABEL, "-o", "json"))
            files = {name: text for item in found["items"] for name, text in item["data"].items()}
            for server in servers:
                with suppress(httpx.TransportError):  # it restarts, and reads them then
                    server.take(files)

    thread = threading.Thread(target=carry, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


def until(look: Callable[[], Any], what: str) -> Any:
    """With the patience that a busy machine needs."""
    return eventually(look, what, PATIENCE_SECONDS)
