"""Where an HTTP/1.1 message begins and ends: strict framing for both legs.

A proxy that reads a request's end differently from the server behind it lets one client write the next client's
request. So nothing is guessed here: a message that two readers could frame differently is refused, and what goes to
the engine is framed anew (one Content-Length), never copied from the client.

Sources: RFC 9110, RFC 9112 (section 6.3 for the length of a message, section 11.2 for smuggling). Stricter than the
RFC allows a server to be: no obs-fold, no bare LF, no chunk extensions, no trailers, no repeated Content-Length even
when equal, no leading empty line, no absolute-form target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

MAX_HEAD_BYTES = 32 * 1024
MAX_CHUNK_LINE = 10  # eight hexadecimal digits and CRLF

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")
_LENGTH = re.compile(rb"[0-9]{1,12}")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")

# Hop by hop (RFC 9110 section 7.6.1), our own framing, and every place where a client may have put its key. The
# engine has no use for cookies or for a compressed answer, whose usage we could not read.
_NOT_FORWARDED = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    b"content-length", b"expect", b"authorization", b"proxy-authorization", b"proxy-authenticate", b"x-api-key",
    b"api-key", b"cookie", b"accept-encoding", b"http2-settings",
})  # fmt: skip
_OURS = b"x-llmops-"
_SECRET = frozenset({b"proxy-authorization", b"x-api-key", b"api-key", b"cookie", b"set-cookie"})
_NOT_RETURNED = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"trailer", b"te"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host", b"authorization", b"content-type"})


class BadMessageError(Exception):
    """A message whose end cannot be agreed on, or that is too large. `status` is the answer to the client."""

    def __init__(self, status: int, message: str) -> None:
        """`message` is shown to the client and never quotes what the client sent."""
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(slots=True)
class RequestHead:
    """The head of one request. `length` is None for a chunked body; `forwarded` are lines to pass on, without CRLF."""

    method: bytes
    target: bytes
    minor: int
    forwarded: list[bytes]
    length: int | None = 0
    keep_alive: bool = True
    expects_continue: bool = False
    credential: bytes | None = None
    content_type: bytes = b""  # only of forms: everything else is read as JSON


@dataclass(slots=True)
class ResponseHead:
    """The head of one response. `length` is None when the body is chunked or ends with the connection."""

    status: int
    returned: list[bytes]
    length: int | None = None
    chunked: bool = False
    reusable: bool = True
    event_stream: bool = False


def request_head(head: bytes) -> RequestHead:
    """Parse a head that ends with its empty line; raise `BadMessageError` for anything ambiguous."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise BadMessageError(400, "The request line is not `METHOD /path HTTP/1.1`.")
    method, target, minor = line.groups()
    request = RequestHead(method, target, int(minor), [], keep_alive=minor == b"1")
    forwarded = request.forwarded
    seen = _Seen()
    for text in head[line.end() : -4].split(b"\r\n") if line.end() < len(head) - 2 else ():
        known = _REQUEST_LINES.get(text)
        if known is None:
            _take_line(request, seen, text)
        elif known is not _Line.DROPS:
            forwarded.append(text)
            if known is _Line.HOST:
                seen.hosts += 1
    if seen.hosts != 1 and (minor == b"1" or seen.hosts > 1):
        raise BadMessageError(400, "A request needs exactly one Host header.")
    if not seen.hosts:
        forwarded.append(b"host: gateway")  # we speak HTTP/1.1 to the engine
    if seen.lengths or seen.encodings:
        request.length = _body_length(seen.lengths, seen.encodings, request.minor)
    if seen.nominated:
        _apply_connection(request, seen.nominated)
    return request


class _Seen:
    """What the lines of one head say about its framing."""

    __slots__ = ("encodings", "hosts", "lengths", "nominated")

    def __init__(self) -> None:
        self.hosts = 0
        self.lengths: list[bytes] = []
        self.encodings: list[bytes] = []
        self.nominated: list[bytes] = []


class _Line(Enum):
    """What a header line that was read before means."""

    PASSES = auto()
    DROPS = auto()
    HOST = auto()
    EVENTS = auto()


class _Lines(dict[bytes, _Line]):
    """Header lines that were read before. Most heads are made of the same lines again and again.

    Bounded, and never with lines that may hold a secret or that say where a message ends.
    """

    def learn(self, line: bytes, meaning: _Line) -> None:
        if len(self) >= _MAX_LINES:
            self.clear()
        if len(line) <= _MAX_LINE_BYTES:
            self[line] = meaning


_MAX_LINES = 4096
_MAX_LINE_BYTES = 256
_REQUEST_LINES = _Lines()
_RESPONSE_LINES = _Lines()


def _field(line: bytes, status: int) -> tuple[bytes, bytes]:
    """Lower-case name and stripped value of a line without its CRLF."""
    field = _FIELD.fullmatch(line)
    if field is None:
        raise BadMessageError(status, "A header line is malformed.")
    name, value = field.groups()
    return name.lower(), value.strip(b" \t")


def _take_line(request: RequestHead, seen: _Seen, line: bytes) -> None:
    name, value = _field(line, 400)
    match name:
        case b"host":
            seen.hosts += 1
            request.forwarded.append(line)
            _REQUEST_LINES.learn(line, _Line.HOST)
        case b"content-type" if value[:10].lower() == b"multipart/":
            request.content_type = value
            request.forwarded.append(line)
        case b"connection" if value.lower() == b"keep-alive":
            _REQUEST_LINES.learn(line, _Line.DROPS)
        case b"content-length":
            seen.lengths.append(value)
        case b"transfer-encoding":
            seen.encodings.append(value)
        case b"connection":
            seen.nominated += [token.strip(b" \t").lower() for token in value.split(b",")]
        case b"authorization":
            _take_credential(request, value)
        case b"expect":
            _take_expectation(request, value)
        case _:
            _learn(request, name, line)


def _learn(request: RequestHead, name: bytes, line: bytes) -> None:
    """Take a line that means nothing to us, and remember whether it passes."""
    passes = name not in _NOT_FORWARDED and not name.startswith(_OURS)
    if passes:
        request.forwarded.append(line)
    if name not in _SECRET:
        _REQUEST_LINES.learn(line, _Line.PASSES if passes else _Line.DROPS)


def _take_credential(request: RequestHead, value: bytes) -> None:
    if request.credential is not None:
        raise BadMessageError(400, "A request has at most one Authorization header.")
    scheme, _, secret = value.partition(b" ")
    request.credential = secret.strip(b" \t") if scheme.lower() == b"bearer" else b""


def _take_expectation(request: RequestHead, value: bytes) -> None:
    if value.lower() != b"100-continue":
        raise BadMessageError(417, "The only expectation served is 100-continue.")
    request.expects_continue = request.minor == 1


def _apply_connection(request: RequestHead, nominated: list[bytes]) -> None:
    """What `Connection` names is dropped with it; naming what frames or authorises the request is an attack."""
    for token in nominated:
        if token == b"close":
            request.keep_alive = False
        elif token in _FRAMING:
            raise BadMessageError(400, "The Connection header names a header that must reach its end.")
    extra = {token + b":" for token in nominated if token not in (b"close", b"keep-alive", b"")}
    if extra:
        request.forwarded = [line for line in request.forwarded if line[: line.index(b":") + 1].lower() not in extra]


def _body_length(lengths: list[bytes], encodings: list[bytes], minor: int) -> int | None:
    if encodings:
        if lengths or minor == 0 or len(encodings) > 1 or encodings[0].lower() != b"chunked":
            raise BadMessageError(400, "Transfer-Encoding must be `chunked`, once, without Content-Length.")
        return None
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise BadMessageError(400, "Content-Length must be one decimal number.")
    return int(lengths[0])


def response_head(head: bytes) -> ResponseHead:
    """Parse an engine's head that ends with its empty line; raise `BadMessageError(502)` for anything ambiguous."""
    line = _STATUS_LINE.match(head)
    if line is None:
        raise BadMessageError(502, "The engine's answer is not HTTP/1.1.")
    minor, status = line.groups()
    response = ResponseHead(int(status), [], reusable=minor == b"1")
    lengths: list[bytes] = []
    encodings: list[bytes] = []
    for text in head[line.end() : -4].split(b"\r\n") if line.end() < len(head) - 2 else ():
        known = _RESPONSE_LINES.get(text)
        if known is None:
            _take_response_line(response, lengths, encodings, text)
        elif known is not _Line.DROPS:
            response.returned.append(text)
            if known is _Line.EVENTS:
                response.event_stream = True
    if lengths or encodings:
        _take_lengths(response, lengths, encodings)
    if response.status in (204, 304):
        response.length, response.chunked = 0, False
    return response


def _take_response_line(response: ResponseHead, lengths: list[bytes], encodings: list[bytes], line: bytes) -> None:
    name, value = _field(line, 502)
    match name:
        case b"content-length":
            lengths.append(value)
            response.returned.append(line)
        case b"transfer-encoding":
            encodings.append(value.lower())
        case b"connection":
            response.reusable = response.reusable and b"close" not in value.lower()
        case b"content-type" if value.startswith(b"text/event-stream"):
            response.event_stream = True
            response.returned.append(line)
            _RESPONSE_LINES.learn(line, _Line.EVENTS)
        case _:
            passes = name not in _NOT_RETURNED
            if passes:
                response.returned.append(line)
            if name not in _SECRET:
                _RESPONSE_LINES.learn(line, _Line.PASSES if passes else _Line.DROPS)


def _take_lengths(response: ResponseHead, lengths: list[bytes], encodings: list[bytes]) -> None:
    if len(lengths) + len(encodings) > 1 or encodings not in ([], [b"chunked"]):
        raise BadMessageError(502, "The engine sent conflicting lengths.")
    if encodings:
        response.chunked = True
    elif _LENGTH.fullmatch(lengths[0]) is None:
        raise BadMessageError(502, "The engine sent a malformed Content-Length.")
    else:
        response.length = int(lengths[0])


class ChunkedBody:
    """Decoder of a chunked body that may be cut anywhere. `done` once its last byte was read."""

    __slots__ = ("_last", "_left", "_line", "done")

    def __init__(self) -> None:
        """Start before the first chunk's size line."""
        self._left = 0  # bytes missing of the current chunk, its closing CRLF included
        self._line = b""
        self._last = False  # the size line of the last chunk was read
        self.done = False

    @property
    def at_boundary(self) -> bool:
        """Whether all bytes so far are whole chunks, or the whole body."""
        return self.done or not (self._left or self._line or self._last)

    def feed(self, data: bytes) -> tuple[list[bytes], int]:
        """Return the payload pieces in `data` and how many of its bytes belong to this body.

        Raises:
            BadMessageError: 400; extensions, trailers and malformed sizes are refused.
        """
        pieces: list[bytes] = []
        at = 0
        end = len(data)
        while at < end and not self.done:
            if self._left:
                at = self._payload(data, at, pieces)
                continue
            stop = data.find(b"\n", at, at + MAX_CHUNK_LINE) + 1
            line = self._line + data[at : stop or end]
            at = stop or end
            if stop:
                self._line = b""
                self._size_line(line)
            elif len(line) < MAX_CHUNK_LINE:
                self._line = line
            else:
                raise BadMessageError(400, "A chunk's size line is too long.")
        return pieces, at

    def _size_line(self, line: bytes) -> None:
        if self._last and line == b"\r\n":
            self.done = True
            return
        if self._last or line[-2:] != b"\r\n" or _CHUNK_SIZE.fullmatch(line, 0, len(line) - 2) is None:
            raise BadMessageError(400, "A chunk's size line is malformed.")
        size = int(line, 16)
        self._last = size == 0
        self._left = size + 2 if size else 0

    def _payload(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take what `data` holds of the current chunk and of its closing CRLF; return the new position."""
        stop = min(at + self._left, len(data))
        payload = max(0, min(self._left - 2, stop - at))
        if payload:
            pieces.append(data[at : at + payload])
        self._left -= payload
        closing = data[at + payload : stop]
        if closing:
            seen = 2 - self._left
            if closing != b"\r\n"[seen : seen + len(closing)]:
                raise BadMessageError(400, "A chunk does not end where its size says.")
            self._left -= len(closing)
        return stop
