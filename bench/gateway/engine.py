"""A stub engine that costs little: one event loop, raw bytes, answers of the size and shape of vLLM's.

`python -m bench.gateway.engine PORT[,PORT...] [SECONDS_PER_TOKEN]`. A stream has `max_tokens` events (64 unless told).
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable

import uvloop

_LENGTH = re.compile(rb"(?i)content-length: (\d+)")
_MAX_TOKENS = re.compile(rb'"max_tokens":\s*(\d+)')
_USAGE = b'"usage":{"prompt_tokens":310,"total_tokens":330,"completion_tokens":20,"prompt_tokens_details":null}'
_TEXT = b"The quick brown fox jumps over the lazy dog and goes home. " * 4
_DOCUMENT = (
    b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1763690000,"model":"support","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"' + _TEXT + b'","refusal":null,"tool_calls":[]},"logprobs":'
    b'null,"finish_reason":"stop","stop_reason":null}],' + _USAGE + b',"prompt_logprobs":null}'
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 20 Nov 2026 10:00:00 GMT\r\nserver: uvicorn\r\ncontent-length: %d\r\n"
    b"content-type: application/json\r\n\r\n%b" % (len(_DOCUMENT), _DOCUMENT)
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 20 Nov 2026 10:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _event(text: bytes) -> bytes:
    payload = b"data: " + text + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(payload), payload)


TOKEN = _event(
    b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1763690000,"model":"support",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}'
)
END = _event(b"[DONE]") + b"0\r\n\r\n"


class Stub(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, token_seconds: float) -> None:
        self.loop = loop
        self.token_seconds = token_seconds
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write: Callable[[bytes], None] = transport.write  # type: ignore[attr-defined]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        found = _LENGTH.search(self.buffer, 0, end)
        length = int(found[1]) if found else 0
        if len(self.buffer) < end + length:
            return
        request, self.buffer = self.buffer[: end + length], self.buffer[end + length :]
        if request.startswith(b"GET /v1/models"):
            body = b'{"object":"list","data":[{"id":"support","object":"model","created":1,"owned_by":"vllm"}]}'
            self.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
        elif request.startswith(b"GET"):
            self.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        elif b'"stream":true' in request or b'"stream": true' in request:
            tokens = _MAX_TOKENS.search(request, end)
            self.write(STREAM_HEAD)
            self.token(int(tokens[1]) if tokens else 64)
        else:
            self.write(ANSWER)

    def token(self, left: int) -> None:
        if self.transport.is_closing():
            return
        if not left:
            self.write(END)
        else:
            self.write(TOKEN)
            if self.token_seconds:
                self.loop.call_later(self.token_seconds, self.token, left - 1)
            else:
                self.loop.call_soon(self.token, left - 1)


async def main(ports: list[int], token_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: Stub(loop, token_seconds), "127.0.0.1", port, backlog=8192) for port in ports
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main([int(port) for port in sys.argv[1].split(",")], float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
