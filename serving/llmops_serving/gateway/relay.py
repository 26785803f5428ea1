"""How an engine's answer is written to the client: as it came where that is safe, framed anew where it is not.

Bytes of an event stream are passed on only up to the end of an event. When the engine dies in the middle of one, the
client then gets a whole error event instead of half a token: a cut is always told, and never looks like an end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from llmops_serving.gateway import answers
from llmops_serving.gateway.chunks import payloads
from llmops_serving.gateway.http1 import ResponseHead
from llmops_serving.gateway.route import Refuse

if TYPE_CHECKING:
    from llmops_serving.gateway.proxy import ClientConnection

_MAX_PENDING: Final = 1024 * 1024  # an event longer than this is passed on unfinished
_MAX_COLLECTED: Final = 64 * 1024


# What happens to the body's bytes.
_SAME: Final = 0  # they go with the framing they have
_EVENTS: Final = 1  # the same, but only whole events
_CHUNKED: Final = 2  # payload in our own chunks
_PLAIN: Final = 3  # payload until the connection closes, for HTTP/1.0
_COLLECTED: Final = 4  # kept back: an error that has to become an event


class Relay:
    """Writes one answer. `status` is what the client saw, 0 before that."""

    __slots__ = ("_keep_alive", "_lead", "_minor", "_mode", "_pending", "_terminated", "_writer", "early", "status")

    def __init__(self, writer: ClientConnection, *, minor: int, keep_alive: bool) -> None:
        """`minor` is the client's HTTP/1 minor version."""
        self._writer = writer
        self._minor = minor
        self._keep_alive = keep_alive
        self._mode = _SAME
        self._lead = b""
        self._pending = b""
        self._terminated = False
        self.early = False
        self.status = 0

    def open_stream(self) -> None:
        """Begin an event stream before any engine has answered, so that nothing on the way gives up waiting."""
        self.early = True
        self.status = 200
        self._mode = _CHUNKED if self._minor else _PLAIN
        head = ResponseHead(200)
        head.returned = answers.STREAM_HEAD
        self._writer.write(answers.head(head, chunked=bool(self._minor), keep_alive=self._keep_alive))

    def comment(self) -> None:
        """Keep an early stream alive with a line that clients ignore."""
        self._payload(answers.SSE_COMMENT)

    def head(self, response: ResponseHead) -> None:
        """Begin the engine's answer."""
        if self.early:
            if response.status != 200 or not response.event_stream:
                self._mode = _COLLECTED
            return
        self.status = response.status
        chunked = response.length is None
        if not chunked:
            self._mode = _SAME
        elif not self._minor:
            self._mode = _PLAIN
        elif not response.chunked:
            self._mode = _CHUNKED
        else:
            self._mode = _EVENTS if response.event_stream else _SAME
        self._lead = answers.head(response, chunked=chunked and self._minor == 1, keep_alive=self._keep_alive)

    def flush(self) -> None:
        """Send the head, if it is still here."""
        if self._lead:
            self._send(b"")

    def _send(self, data: bytes) -> None:
        """Write; a head that waits goes with its body, because one system call costs half of two."""
        if self._lead:
            data, self._lead = self._lead + data, b""
        self._writer.write(data)

    def data(self, raw: bytes, pieces: list[bytes] | None, *, last: bool) -> None:
        """Pass on a part of the body.

        Args:
            raw: The bytes as they came.
            pieces: The payload in them; None when `raw` is nothing but whole chunks.
            last: Whether `raw` ends with the last chunk.
        """
        mode = self._mode
        if mode == _SAME:
            self._send(raw)
            return
        if pieces is None:
            if mode == _EVENTS and not self._pending and _ends_event(raw, last=last):
                self._terminated = last
                self._send(raw)
                return
            pieces = payloads(raw)
        if mode == _EVENTS:
            self._hold_back(pieces)
        elif mode == _COLLECTED:
            if len(self._pending) < _MAX_COLLECTED:
                self._pending += b"".join(pieces)
        elif self.early:
            self._hold_back(pieces)
        else:
            self._payload(b"".join(pieces))

    def finish(self) -> None:
        """The engine's answer is complete."""
        if self._mode == _COLLECTED:
            self._payload(_as_event(self._pending))
        elif self._pending:
            self._payload(self._pending)
        self._pending = b""
        chunked = self._mode in (_EVENTS, _CHUNKED) or (self._mode == _COLLECTED and self._minor)
        if chunked and not self._terminated:
            self._send(answers.LAST_CHUNK)
        self.flush()

    def cut(self, refusal: Refuse) -> bool:
        """The engine's answer ended too early. Returns whether the client could be told; if not, close on it."""
        self.flush()
        if self._mode == _SAME or (self._mode in (_CHUNKED, _PLAIN) and not self.early):
            return False
        self._pending = b""
        if self._mode == _EVENTS:
            self._mode = _CHUNKED
        self._payload(answers.error_event(refusal))
        if self._minor:
            self._send(answers.LAST_CHUNK)
        return True

    def _hold_back(self, pieces: list[bytes]) -> None:
        """Pass on whole events and keep the rest."""
        pending = self._pending + b"".join(pieces)
        end = max(pending.rfind(b"\n\n") + 2, pending.rfind(b"\r\n\r\n") + 4)
        if len(pending) > _MAX_PENDING:
            end = len(pending)
        elif end < 5:  # neither was found: rfind's -1
            end = 2 if pending[:2] == b"\n\n" else 0
        if end:
            self._payload(pending[:end])
        self._pending = pending[end:]

    def _payload(self, payload: bytes) -> None:
        if payload:
            self._send(answers.chunk(payload) if self._minor else payload)


class NotFound:
    """An engine's 404 to a request for an adapter that the pod is said to have, kept back until it is complete."""

    __slots__ = ("head", "parts")

    def __init__(self, head: ResponseHead) -> None:
        """Nothing of its body has come."""
        self.head = head
        self.parts: list[tuple[bytes, list[bytes] | None, bool]] = []

    def names(self, adapter: str) -> bool:
        """Whether it is the engine's answer to a model's name that it does not know, in vLLM's words."""
        said = b"".join([b"".join(payloads(raw) if pieces is None else pieces) for raw, pieces, _ in self.parts])
        return b"`%b` does not exist" % adapter.encode() in said


def _ends_event(chunks: bytes, *, last: bool) -> bool:
    """Whether whole chunks end where an event ends; False where a look at the payload is needed to know."""
    end = len(chunks) - len(answers.LAST_CHUNK) if last else len(chunks)
    if not end:
        return True
    return chunks.endswith(b"\n\n\r\n", 0, end) and chunks[end - 5 : end - 4] != b"\r"


def _as_event(body: bytes) -> bytes:
    """An engine's error document as an event; its text may have been laid out over several lines."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = {"error": {"message": "The engine refused the request.", "type": "server_error", "code": None}}
    if not isinstance(document, dict) or "error" not in document:
        document = {"error": document}
    return b"data: " + orjson.dumps(document) + b"\n\n"
