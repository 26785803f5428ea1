"""Answers that the gateway gives itself, in OpenAI's shapes. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import orjson

from llmops_serving.gateway.http1 import ResponseHead
from llmops_serving.gateway.route import Refuse

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
STREAM_HEAD: Final = [b"content-type: text/event-stream; charset=utf-8", b"cache-control: no-cache"]
SSE_COMMENT: Final = b": waiting for the model to start\n\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


def status_line(status: int) -> bytes:
    """The first line of an answer, without CRLF."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Status" % status


_STATUS_LINES: Final = {status.value: b"HTTP/1.1 %d %b" % (status, status.phrase.encode()) for status in HTTPStatus}


def error_document(refusal: Refuse) -> bytes:
    """The JSON text of an error."""
    error = {"message": refusal.message, "type": refusal.type, "param": refusal.param, "code": refusal.code}
    return orjson.dumps({"error": error})


def error(refusal: Refuse, *, keep_alive: bool, extra: bytes = b"") -> bytes:
    """The whole answer to a refused request; `extra` are further header lines."""
    if refusal.retry_after is not None:
        extra += b"retry-after: %d\r\n" % refusal.retry_after
    if refusal.status == 401:
        extra += b"www-authenticate: Bearer\r\n"
    return document(refusal.status, error_document(refusal), keep_alive=keep_alive, extra=extra)


def document(status: int, body: bytes, *, keep_alive: bool, extra: bytes = b"") -> bytes:
    """A whole JSON answer."""
    closing = b"" if keep_alive else b"connection: close\r\n"
    length = b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    return status_line(status) + length + extra + closing + b"\r\n" + body


def chunk(payload: bytes) -> bytes:
    """The payload as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def error_event(refusal: Refuse) -> bytes:
    """A terminal error inside an event stream, as OpenAI's clients raise it; no `[DONE]` follows."""
    return b"data: " + error_document(refusal) + b"\n\n"


def head(response: ResponseHead, *, chunked: bool, keep_alive: bool) -> bytes:
    """The head that the client sees of an engine's answer."""
    lines = [status_line(response.status), *response.returned]
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    if not keep_alive:
        lines.append(b"connection: close")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def model_list(names: list[str], created: int) -> bytes:
    """The answer to `GET /v1/models`."""
    data: list[dict[str, Any]] = [
        {"id": name, "object": "model", "created": created, "owned_by": "llmops"} for name in names
    ]
    return orjson.dumps({"object": "list", "data": data})
