"""Requests that must be refused, in thirty kinds, and what each is answered with."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

PATH = "/v1/chat/completions"
GOOD = b'{"model":"support","messages":[]}'


def message(body: bytes = GOOD, *lines: str, first: str = f"POST {PATH} HTTP/1.1", length: str | None = None) -> bytes:
    """A request with these further header lines."""
    head = [first, "Host: gateway", *lines, f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def _chunked(body: bytes, *lines: str) -> bytes:
    head = ["POST " + PATH + " HTTP/1.1", "Host: gateway", *lines, "Transfer-Encoding: chunked"]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def _junk(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(rng.randrange(1, 40)))


# By kind: how to make one, and the statuses that it may be answered with.
KINDS: dict[str, tuple[Callable[[random.Random], bytes], frozenset[int]]] = {
    name: (make, frozenset(statuses))
    for name, make, *statuses in (
        ("no HTTP at all", lambda rng: _junk(rng).encode() + b"\r\n\r\n", 400),
        ("a TLS greeting", lambda rng: b"\x16\x03\x01" + rng.randbytes(40) + b"\r\n\r\n", 400),
        ("HTTP/2's preface", lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        ("HTTP/3.7", lambda rng: message(first=f"POST {PATH} HTTP/{rng.randrange(2, 9)}.7"), 400),
        ("a small letter in the method", lambda _: message(first=f"post {PATH} HTTP/1.1"), 400),
        ("two spaces", lambda _: message(first=f"POST  {PATH} HTTP/1.1"), 400),
        ("an absolute target", lambda _: message(first=f"POST http://gateway{PATH} HTTP/1.1"), 400),
        ("a control character in the target", lambda _: message(first=f"POST {PATH}\x01 HTTP/1.1"), 400),
        ("a path nobody serves", lambda rng: message(first=f"POST /v1/{_junk(rng)} HTTP/1.1"), 404),
        ("a path that climbs", lambda _: message(first="POST /v1/../v1/chat/completions HTTP/1.1"), 404),
        ("an encoded path", lambda _: message(first="POST /v1/chat%2fcompletions HTTP/1.1"), 404),
        ("a path of the engine", lambda _: message(first="POST /v1/load_lora_adapter HTTP/1.1"), 404),
        (
            "the wrong method",
            lambda rng: message(first=f"{rng.choice(('PUT', 'PATCH'))} {PATH} HTTP/1.1"),
            405,
        ),
        ("no Host", lambda _: b"POST /v1/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
        ("two Hosts", lambda rng: message(GOOD, f"Host: {_junk(rng)}"), 400),
        ("a header without a colon", lambda rng: message(GOOD, _junk(rng)), 400),
        ("a space before the colon", lambda rng: message(GOOD, f"X-{_junk(rng)} : 1"), 400),
        ("a folded header", lambda rng: message(GOOD, "X-A: 1", f" {_junk(rng)}"), 400),
        ("a bare line feed", lambda rng: message(GOOD, f"X-A: 1\nX-B: {_junk(rng)}"), 400),
        ("a zero byte in a header", lambda rng: message(GOOD, f"X-A: {_junk(rng)}\0"), 400),
        ("a head without end", lambda rng: message(GOOD, f"X-A: {'a' * rng.randrange(33_000, 50_000)}"), 431),
        ("two lengths", lambda rng: message(GOOD, f"Content-Length: {rng.randrange(99)}"), 400),
        ("a length that is none", lambda rng: message(length=rng.choice(("+5", "-1", "0x5", "5 5", "5,5", ""))), 400),
        ("a length with an encoding", lambda _: message(GOOD, "Transfer-Encoding: chunked"), 400),
        ("another encoding", lambda rng: message(b"", f"Transfer-Encoding: {_junk(rng)}", length="0"), 400),
        ("a chunk that is longer than it says", lambda rng: _chunked(b"2\r\n" + _junk(rng).encode() + b"xxx\r\n"), 400),
        ("a chunk with an extension", lambda rng: _chunked(b"5;" + _junk(rng).encode() + b"\r\nhello\r\n"), 400),
        ("a body that is not JSON", lambda rng: message(b"{" + _junk(rng).encode()), 400),
        ("no model", lambda rng: message(json.dumps({"prompt": _junk(rng)}).encode()), 400),
        ("a model nobody serves", lambda rng: message(json.dumps({"model": "x-" + _junk(rng)}).encode()), 404),
    )
}
