"""A closed-loop load generator: raw bytes, so that what is measured is the proxy. Prints one JSON line.

`python -m bench.gateway.client PORT CONNECTIONS SECONDS [--stream TOKENS] [--rate PER_SECOND]
[--fresh FROM]`: with the last, no prompt is asked twice.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator

import uvloop

SYSTEM = "You are a helpful assistant that answers briefly and in plain words. " * 4
QUESTION = "Tell me what I should know about the history of tea in Europe, please. " * 13


def request(*, stream_tokens: int, number: int, key: str = "") -> bytes:
    """A chat of 1.3 KB; `number` makes prompts differ in their first block."""
    document = {
        "messages": [
            {"role": "system", "content": f"{number:06d} {SYSTEM}"},
            {"role": "user", "content": QUESTION},
        ],
        "model": "support",
        "max_tokens": stream_tokens or 20,
    }
    if stream_tokens:
        document["stream"] = True
    body = json.dumps(document, separators=(",", ":")).encode()
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        f"User-Agent: OpenAI/Python 2.8.0\r\n{authorization}X-Stainless-Lang: python\r\n"
        f"X-Stainless-Package-Version: 2.8.0\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Totals:
    def __init__(self) -> None:
        self.requests = self.errors = self.chunks = 0
        self.latencies: list[float] = []


class Caller(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, totals: Totals, payload: Callable[[], bytes], *, stream: bool, paced: bool) -> None:
        self.totals, self.payload, self.stream, self.paced = totals, payload, stream, paced
        self.buffer = b""
        self.tail = b""
        self.length = 0
        self.busy = False
        self.stopped = False
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        if not self.paced:
            self.send()

    def send(self) -> None:
        self.busy, self.buffer, self.length, self.tail = True, b"", 0, b""
        self.at = time.perf_counter()
        self.transport.write(self.payload())

    def data_received(self, data: bytes) -> None:
        if self.stream and self.length:
            self.totals.chunks += data.count(b"data: ")
            self.tail = (self.tail + data)[-7:]
            if self.tail.endswith(b"\r\n0\r\n\r\n"):
                self.finish()
            return
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        if not self.length:
            head = self.buffer[:end].lower()
            if b" 200 " not in head[:20]:
                self.totals.errors += 1
            if self.stream and b"chunked" in head:
                self.length = -1
                rest, self.buffer = self.buffer[end:], b""
                if rest:
                    self.data_received(rest)
                return
            at = head.find(b"content-length: ")
            self.length = end + int(head[at + 16 : head.index(b"\r", at)])
        if len(self.buffer) >= self.length:
            self.finish()

    def finish(self) -> None:
        self.totals.requests += 1
        self.totals.latencies.append(time.perf_counter() - self.at)
        self.busy = False
        if self.stopped:
            self.transport.close()
        elif not self.paced:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.busy:
            self.totals.errors += 1
        if not self.done.done():
            self.done.set_result(None)


def payloads(stream_tokens: int, key: str, numbers: Iterator[int]) -> Callable[[], bytes]:
    """The next request; one that repeats is made once."""
    made = functools.lru_cache(maxsize=1)(lambda number: request(stream_tokens=stream_tokens, number=number, key=key))
    return lambda: made(next(numbers))


def _the(caller: Caller) -> Caller:
    return caller


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--stream", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--key", default="")
    parser.add_argument("--fresh", type=int, default=0)
    given = parser.parse_args()
    totals = Totals()
    loop = asyncio.get_running_loop()
    callers = []
    for number in range(given.connections):
        numbers = itertools.count(given.fresh + number, given.connections) if given.fresh else itertools.repeat(number)
        payload = payloads(given.stream, given.key, numbers)
        caller = Caller(totals, payload, stream=bool(given.stream), paced=bool(given.rate))
        await loop.create_connection(functools.partial(_the, caller), "127.0.0.1", given.port)
        callers.append(caller)
    started = time.perf_counter()
    if given.rate:
        await paced(callers, given.rate, given.seconds)
    else:
        await asyncio.sleep(given.seconds)
    elapsed = time.perf_counter() - started
    requests, chunks = totals.requests, totals.chunks
    for caller in callers:
        caller.stopped = True
        if not caller.busy:
            caller.transport.close()
    await asyncio.wait([caller.done for caller in callers], timeout=60)
    ordered = sorted(totals.latencies) or [0.0]
    print(
        json.dumps(
            {
                "seconds": elapsed,
                "requests": requests,
                "all_requests": totals.requests,
                "chunks": chunks,
                "all_chunks": totals.chunks,
                "errors": totals.errors,
                "p50_us": ordered[len(ordered) // 2] * 1e6,
                "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
            }
        )
    )


async def paced(callers: list[Caller], rate: float, seconds: float) -> None:
    """Send at fixed times, on the next connection that is free."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    turn = sent = 0
    while (now := time.perf_counter()) and loop.time() - begin < seconds:
        due = int((loop.time() - begin) * rate)
        while sent < due:
            sent += 1
            for _ in callers:
                turn = (turn + 1) % len(callers)
                if not callers[turn].busy:
                    callers[turn].send()
                    break
        await asyncio.sleep(max(0.001, 1 / rate - (time.perf_counter() - now)))


if __name__ == "__main__":
    uvloop.run(main())
