"""How an engine's answer is written to the client: as it came where that is safe, framed anew where it is not.

Bytes of an event stream are passed on only up to the end of an event. When the engine dies in the middle of one, the
client then gets a whole error event instead of half a token: a cut is always told, and never looks like an end.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

import orjson

from llmops_serving.gateway import answers
from llmops_serving.gateway.http1 import ResponseHead
from llmops_serving.gateway.route import Refuse

_MAX_PENDING = 1024 * 1024  # an event longer than this is passed on unfinished
_MAX_COLLECTED = 64 * 1024


class Writer(Protocol):
    """The client's side of the connection."""

    def write(self, data: bytes) -> None:
        """Send, or queue."""


class _Mode(Enum):
    SAME = auto()  # the body's bytes with the framing they have
    EVENTS = auto()  # the same, but only whole events
    CHUNKED = auto()  # payload in our own chunks
    PLAIN = auto()  # payload until the connection closes, for HTTP/1.0
    COLLECTED = auto()  # kept back: an error that has to become an event


class Relay:
    """Writes one answer. `status` is what the client saw, 0 before that."""

    __slots__ = ("_keep_alive", "_lead", "_minor", "_mode", "_pending", "_terminated", "_writer", "early", "status")

    def __init__(self, writer: Writer, *, minor: int, keep_alive: bool) -> None:
        """`minor` is the client's HTTP/1 minor version."""
        self._writer = writer
        self._minor = minor
        self._keep_alive = keep_alive
        self._mode = _Mode.SAME
        self._lead = b""
        self._pending = b""
        self._terminated = False
        self.early = False
        self.status = 0

    def open_stream(self) -> None:
        """Begin an event stream before any engine has answered, so that nothing on the way gives up waiting."""
        self.early = True
        self.status = 200
        self._mode = _Mode.CHUNKED if self._minor else _Mode.PLAIN
        head = ResponseHead(200, answers.STREAM_HEAD)
        self._writer.write(answers.head(head, chunked=bool(self._minor), keep_alive=self._keep_alive))

    def comment(self) -> None:
        """Keep an early stream alive with a line that clients ignore."""
        self._payload(answers.SSE_COMMENT)

    def head(self, response: ResponseHead) -> None:
        """Begin the engine's answer."""
        if self.early:
            if response.status != 200 or not response.event_stream:
                self._mode = _Mode.COLLECTED
            return
        self.status = response.status
        chunked = response.length is None
        if not chunked:
            self._mode = _Mode.SAME
        elif not self._minor:
            self._mode = _Mode.PLAIN
        elif not response.chunked:
            self._mode = _Mode.CHUNKED
        else:
            self._mode = _Mode.EVENTS if response.event_stream else _Mode.SAME
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

    def data(self, raw: bytes, pieces: list[bytes], *, whole: bool) -> None:
        """Pass on a part of the body."""
        mode = self._mode
        if mode is _Mode.SAME:
            self._send(raw)
        elif mode is _Mode.EVENTS:
            if whole and not self._pending and (not pieces or pieces[-1].endswith(b"\n\n")):
                self._terminated = raw.endswith(answers.LAST_CHUNK)
                self._send(raw)
            else:
                self._hold_back(pieces)
        elif mode is _Mode.COLLECTED:
            if len(self._pending) < _MAX_COLLECTED:
                self._pending += b"".join(pieces)
        elif self.early:
            self._hold_back(pieces)
        else:
            self._payload(b"".join(pieces))

    def finish(self) -> None:
        """The engine's answer is complete."""
        if self._mode is _Mode.COLLECTED:
            self._payload(_as_event(self._pending))
        elif self._pending:
            self._payload(self._pending)
        self._pending = b""
        chunked = self._mode in (_Mode.EVENTS, _Mode.CHUNKED) or (self._mode is _Mode.COLLECTED and self._minor)
        if chunked and not self._terminated:
            self._send(answers.LAST_CHUNK)
        self.flush()

    def cut(self, refusal: Refuse) -> bool:
        """The engine's answer ended too early. Returns whether the client could be told; if not, close on it."""
        self.flush()
        if self._mode is _Mode.SAME or (self._mode in (_Mode.CHUNKED, _Mode.PLAIN) and not self.early):
            return False
        self._pending = b""
        if self._mode is _Mode.EVENTS:
            self._mode = _Mode.CHUNKED
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


def _as_event(body: bytes) -> bytes:
    """An engine's error document as an event; its text may have been laid out over several lines."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = {"error": {"message": "The engine refused the request.", "type": "server_error", "code": None}}
    if not isinstance(document, dict) or "error" not in document:
        document = {"error": document}
    return b"data: " + orjson.dumps(document) + b"\n\n"
