"""The gateway's own work for one request, in machine instructions: a figure that a busy machine does not bend.

`python -m bench.gateway.instructions` runs the data path on sockets that are none, under valgrind's callgrind, with few
and with many requests; the difference is what one request, and one streamed chunk, cost in user space. An `answer` is
the part of a request that its client waits for.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.gateway import engine
from bench.gateway.client import request
from bench.gateway.legs import KEY, ROOT, environment
from hack import compiled
from llmops_serving.gateway.gateway import Gateway
from llmops_serving.gateway.keys import from_fields, keyring
from llmops_serving.gateway.proxy import ClientConnection
from llmops_serving.gateway.table import Endpoint, Model, table
from llmops_serving.gateway.upstream import Connection

TOKENS = 64
FEW, MANY = 50, 550
KINDS = (("answer", 1), ("request", 1), ("chunk", TOKENS))


class Wire:
    """The socket's side of a connection: forgets what is written to it."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def writelines(self, lines: list[bytes]) -> None:
        self.written += sum(map(len, lines))

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} on a path that should be straight")


class Loop:
    """As much of an event loop as requests on kept connections use."""

    time = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.later: list[tuple[Any, tuple[Any, ...]]] = []

    def call_soon(self, callback: Any, *arguments: Any) -> None:
        self.later.append((callback, arguments))


class Bench:
    """One gateway with keys, one client, `pods` engines with a kept connection each."""

    def __init__(self, pods: int = 4, *, counted: bool = True) -> None:
        """With `counted` false, what comes after the client has its answer is left out."""
        loop: Any = Loop()
        self.loop, self.counted = loop, counted
        self.gateway = Gateway(loop)
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        limits = {
            "requestsPerMinute": "1000000000",
            "tokensPerMinute": "1000000000000",
            "monthlyTokens": "1" + 12 * "0",
        }
        self.gateway.admit_keys(keyring([from_fields("bench", {"hash": digest, "tenant": "bench", **limits})]))
        endpoints = tuple(Endpoint("127.0.0.1", 9000 + number, f"pod-{number}") for number in range(pods))
        self.gateway.apply(table([Model("default", "support", "support", endpoints=endpoints)]))
        [lane] = self.gateway.lanes.values()
        self.engines = []
        for pod in lane.pods:
            connection = Connection(pod)
            connection.connection_made(Wire())  # type: ignore[arg-type]
            pod.idle.append(connection)
            self.engines.append((pod, connection))
        self.client = ClientConnection(self.gateway)
        self.wire = Wire()
        self.client.connection_made(self.wire)  # type: ignore[arg-type]

    def ask(self, payload: bytes, answer: list[bytes]) -> None:
        """One request and its answer, in the reads that are given."""
        self.client.data_received(payload)
        [connection] = [connection for pod, connection in self.engines if pod.in_flight]
        for data in answer:
            connection.data_received(data)
        if self.counted:
            for callback, arguments in self.loop.later:
                callback(*arguments)
        else:
            self.gateway.exchanges.clear()
        self.loop.later.clear()


def run(kind: str, count: int) -> None:
    """`count` requests; also what is timed in `python -m bench.gateway.instructions time`."""
    bench = Bench(counted=kind != "answer")
    payloads = [request(stream_tokens=TOKENS * (kind == "chunk"), number=number, key=KEY) for number in range(32)]
    answer = [engine.ANSWER]
    if kind == "chunk":
        answer = [engine.STREAM_HEAD, *[engine.TOKEN] * TOKENS, engine.END]
    for number in range(count):
        bench.ask(payloads[number % len(payloads)], answer)
    [series] = bench.gateway.metrics.series.values()
    if kind != "answer":
        assert series.codes == {200: count}, series.codes


def instructions(kind: str, count: int, serving: Path) -> int:
    """All instructions of a process that makes so many requests with the gateway in `serving`."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [sys.executable, "-m", "bench.gateway.instructions", kind, str(count)]
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env={**environment(serving), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Collected : (\d+)", finished.stderr)
    if found is None:
        raise SystemExit(finished.stderr)
    return int(found[1])


def main() -> None:
    for name, serving in (("plain Python", ROOT / "serving"), ("compiled", compiled.ensure())):
        for kind, units in KINDS:
            few, many = (instructions(kind, count, serving) for count in (FEW, MANY))
            print(f"{(many - few) / (MANY - FEW) / units:9.0f} instructions per {kind}, {name}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["time"]:
        for what, per in KINDS:
            best = 1.0
            for _ in range(7):
                begun = time.process_time()
                run(what, 4000 // per)
                best = min(best, (time.process_time() - begun) / (4000 // per) / per)
            print(f"{best * 1e6:6.2f} µs per {what}")
    elif sys.argv[1:]:
        run(sys.argv[1], int(sys.argv[2]))
    else:
        main()
