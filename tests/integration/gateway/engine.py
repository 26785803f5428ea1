"""An engine that speaks OpenAI's API over real sockets and can be told how to behave: `python engine.py PORT`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


@dataclass
class Seen:
    """One request as the engine got it."""

    head: bytes
    body: bytes

    @property
    def path(self) -> str:
        return self.head.split(b" ")[1].decode()

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


Behaviour = Callable[["Engine", Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


@dataclass
class Engine:
    """A server whose `behaviour` answers one request and returns whether the connection stays open."""

    name: str = "engine"
    tokens: int = 3
    token_seconds: float = 0.0
    healthy: bool = True
    behaviour: Behaviour | None = None
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0  # that carried requests
    asked: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    closed_early: int = 0
    port: int = 0
    _server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> Engine:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**26)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self.open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        first = True
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                length = int(found[1]) if found else 0
                request = Seen(head, await reader.readexactly(length))
                if head.startswith(b"GET"):
                    self.asked += 1
                    writer.write(b"HTTP/1.1 %d Health\r\ncontent-length: 0\r\n\r\n" % (200 if self.healthy else 503))
                    continue
                self.connections += first
                first = False
                self.seen.append(request)
                answer = self.behaviour or well_behaved
                if not await answer(self, request, reader, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed_early += 1
        finally:
            self.open.discard(writer)
            writer.close()


async def well_behaved(engine: Engine, seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    document = {} if b"multipart" in seen.head else seen.document
    if document.get("stream"):
        writer.write(stream_head())
        for event in stream_events(document, engine.tokens):
            writer.write(chunk(event))
            await writer.drain()
            if engine.token_seconds:
                await asyncio.sleep(engine.token_seconds)
        writer.write(b"0\r\n\r\n")
    else:
        if engine.token_seconds:
            await asyncio.sleep(engine.token_seconds * engine.tokens)
        writer.write(answer(document, engine.name))
    await writer.drain()
    return True


def stream_head() -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def stream_events(document: dict[str, Any], tokens: int) -> list[bytes]:
    first = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    deltas: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": f"t{n} "}, "finish_reason": None}]} for n in range(tokens)
    ]
    deltas[-1]["choices"][0]["finish_reason"] = "stop"
    events: list[dict[str, Any]] = [first, *deltas]
    if (document.get("stream_options") or {}).get("include_usage"):
        events.append({"choices": [], "usage": USAGE})
    texts = [json.dumps({"id": "c", "object": "chat.completion.chunk", **event}) for event in events]
    return [f"data: {text}\n\n".encode() for text in [*texts, "[DONE]"]]


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def answer(document: dict[str, Any], name: str) -> bytes:
    message = {"role": "assistant", "content": f"hello from {name}"}
    body = json.dumps(
        {
            "model": document.get("model"),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    ).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def main(port: int) -> None:
    await Engine(name=str(port), tokens=20, token_seconds=0.02).start(port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import sys

    asyncio.run(main(int(sys.argv[1])))
