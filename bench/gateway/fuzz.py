"""Streams of almost valid requests, cut at random, read by the gateway and by the reference: they must agree.

A disagreement about where a request ends is a hole. The one difference allowed is time: of a malformed chunk that is
not complete yet, one reader may say `refused` where the other still waits.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from bench.gateway.reference import Reading, read
from llmops_serving.gateway import proxy, route
from llmops_serving.gateway.gateway import Gateway, Options
from llmops_serving.gateway.route import Refuse

HEADERS = [
    b"Host: a",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: 12",
    b"content-length:3",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Content-Length: 0x5",
    b"Content-Length: 5 5",
    b"Content-Length:",
    b"Content-Length : 5",
    b"Content_Length: 5",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:chunked ",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: chunked\x0b",
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"X: y",
    b"X: a\n b",
    b"X: a\r\n b",
    b"X:\x00",
    b"Connection: close",
    b"Connection: keep-alive, X",
    b"Connection: Content-Length",
    b"Connection: transfer-encoding",
    b"Expect: 100-continue",
    b"Expect: 200",
    b"Authorization: Bearer k",
    b": empty",
    b"X\xff: y",
    b"X: \xff",
    b"Trailer: x",
    b"TE: trailers",
    b"Upgrade: h2c",
    b"Content-Length: 99999999999999",
    b"",
]
HARMLESS = [
    b"X: y",
    b"Accept: */*",
    b"Connection: keep-alive, X",
    b"TE: trailers",
    b"X:\t\xff ",
    b"Expect: 100-continue",
]
CHUNKED = [
    b"5\r\nhello\r\n0\r\n\r\n",
    b"0\r\n\r\n",
    b"05\r\nhello\r\n000\r\n\r\n",
    b"1\r\na\r\nA\r\n0123456789\r\n0\r\n\r\n",
]
LINES = [
    b"POST /v1/completions HTTP/1.1",
    b"POST /v1/completions HTTP/1.0",
    b"GET /healthz HTTP/1.1",
    b"POST /v1/x HTTP/1.1",
    b"POST  /v1/completions HTTP/1.1",
    b"POST /v1/completions HTTP/1.1 ",
    b"post /v1/completions HTTP/1.1",
    b"POST http://a/v1/completions HTTP/1.1",
    b"POST /v1/completions",
    b"GET / HTTP/0.9",
    b"POST /v1/completions HTTP/2.0",
    b"POST /v1/completions?a=b HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"",
    b"POST\t/v1/completions\tHTTP/1.1",
]
BODIES = [
    b"",
    b"hello",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"0\r\n\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"5;a=b\r\nhello\r\n0\r\n\r\n",
    b"05\r\nhello\r\n000\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"-1\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"FFFFFFFFF\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    b"\r\n",
    b"a\r\n0123456789\r\n0\r\n\r\n",
    b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
]
BYTES = [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b"0", b",", b";", b"\xff", b"\r\n\r\n", b"chunked"]


def stream(rng: random.Random) -> bytes:
    """One to four requests, most of them nearly right, and often the last one's head with another length."""
    requests = [_request(rng) for _ in range(rng.choice((1, 1, 2, 3, 4)))]
    while rng.random() < 0.4:
        requests.append(recurring(rng, requests[-1]))
    return b"".join(requests)


_LENGTHS = (b"0", b"007", b"+5", b"", b" 5", b"5 ", b"0x5", b"5\r", b"999999999999", b"0000000000005", b"5, 5")


def recurring(rng: random.Random, request: bytes) -> bytes:
    """A request with the same head but for its length, which is now and then none."""
    head, end, _ = request.partition(b"\r\n\r\n")
    before, name, line = head.partition(b"Content-Length: ")
    rest = line[len(line) - len(line.lstrip(b"0123456789")) :]
    body = rng.choice(BODIES)
    length = rng.choice(_LENGTHS) if rng.random() < 0.2 else b"%d" % len(body)
    return before + name + (length + rest if name else b"") + end + body


def _request(rng: random.Random) -> bytes:
    line = LINES[0] if rng.random() < 0.93 else rng.choice(LINES)
    fields = [] if rng.random() < 0.02 else [b"Host: a"]
    kind = rng.random()
    body = rng.choice(BODIES)
    if kind < 0.45:
        fields.append(b"Content-Length: %d" % len(body))
    elif kind < 0.9:
        fields.append(b"Transfer-Encoding: chunked")
        body = rng.choice(CHUNKED if rng.random() < 0.6 else BODIES)
    fields += [rng.choice(HEADERS if rng.random() < 0.3 else HARMLESS) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    rng.shuffle(fields)
    request = b"\r\n".join([line, *fields, b"", b""]) + body
    for _ in range(rng.choice((0,) * 8 + (1, 1, 2))):
        at = rng.randrange(len(request) + 1)
        how = rng.random()
        if how < 0.4:
            request = request[:at] + rng.choice(BYTES) + request[at:]
        elif how < 0.7:
            request = request[:at] + request[at + rng.randrange(1, 4) :]
        else:
            request = request[:at] + bytes([rng.randrange(256)]) + request[at + 1 :]
    return request


def cuts(rng: random.Random, data: bytes) -> list[bytes]:
    """The stream in pieces, as a network may deliver it."""
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 1, 2, 5, 20)))) if data else []
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]


class Loop:
    """As much of an event loop as a connection uses."""

    def __init__(self) -> None:
        self.queue: deque[Callable[[], Any]] = deque()

    def call_soon(self, callback: Callable[[], Any]) -> None:
        self.queue.append(callback)

    def run(self) -> None:
        while self.queue:
            self.queue.popleft()()


class Transport(asyncio.Transport):
    """Where answers go: nowhere."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


class Recording(proxy.ClientConnection):
    """The gateway's reader of requests, with a note of what it read in place of an engine."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self.reading = Reading()

    def _start(self, admitted: Any, body: bytes) -> None:
        self.reading.requests.append((admitted.head.method, admitted.head.target, body))
        self.finished(keep_alive=self._keep_alive)

    def _answer_here(self, head: Any, path: Any, key: Any) -> None:
        self.reading.requests.append((head.method, head.target, b""))
        super()._answer_here(head, path, key)

    def _refuse_unread(self, refusal: Refuse) -> None:
        self.reading.end = "closed" if refusal.status in (404, 405) else "refused"
        super()._refuse_unread(refusal)

    def _close_softly(self) -> None:
        if self.reading.end == "incomplete":
            self.reading.end = "closed"
        super()._close_softly()


def gateway_reading(pieces: list[bytes]) -> Reading:
    """What the gateway makes of a stream that comes in these pieces."""
    loop = Loop()
    gateway = Gateway(loop, Options(max_body_bytes=10**13, max_buffered_bytes=10**13))  # type: ignore[arg-type]
    connection = Recording(gateway)
    connection.connection_made(Transport())
    for piece in pieces:
        connection.data_received(piece)
        loop.run()
    reading = connection.reading
    connection.connection_lost(None)
    if gateway.buffered:
        raise AssertionError(f"{gateway.buffered} bytes are still counted")
    return reading


def disagreement(data: bytes, pieces: list[bytes]) -> str | None:
    """How the two readers differ, or None."""
    ours, theirs = gateway_reading(pieces), read(data, route.ENGINE_PATHS)
    if ours.requests != theirs.requests:
        return f"requests: gateway {ours.requests}, reference {theirs.requests}"
    if ours.end != theirs.end and {ours.end, theirs.end} != {"incomplete", "refused"}:
        return f"end: gateway {ours.end}, reference {theirs.end}"
    return None


def main(count: int, seed: int) -> int:
    """Try `count` streams; print what was seen and every disagreement."""
    rng = random.Random(seed)
    found = 0
    ends: dict[str, int] = {}
    requests = 0
    started = time.monotonic()
    for number in range(count):
        data = stream(rng)
        pieces = cuts(rng, data)
        problem = disagreement(data, pieces)
        reference = read(data, route.ENGINE_PATHS)
        ends[reference.end] = ends.get(reference.end, 0) + 1
        requests += len(reference.requests)
        if problem is not None:
            found += 1
            print(f"{number}: {problem}\n  {data!r}\n  {[len(piece) for piece in pieces]}")
    seconds = time.monotonic() - started
    print(f"{count} streams, {requests} requests, ends {ends}, {found} disagreements, {seconds:.0f} s, seed {seed}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
