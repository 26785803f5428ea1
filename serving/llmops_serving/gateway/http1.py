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
from typing import Final

MAX_HEAD_BYTES: Final = 32 * 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.([01])\r\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,12}")

# Hop by hop (RFC 9110 section 7.6.1), our own framing, and every place where a client may have put its key. The
# engine has no use for cookies or for a compressed answer, whose usage we could not read.
_NOT_FORWARDED: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    b"content-length", b"expect", b"authorization", b"proxy-authorization", b"proxy-authenticate", b"x-api-key",
    b"api-key", b"cookie", b"accept-encoding", b"http2-settings",
})  # fmt: skip
_OURS: Final = b"x-llmops-"
_SECRET: Final = frozenset({b"proxy-authorization", b"x-api-key", b"api-key", b"cookie", b"set-cookie"})
_NOT_RETURNED: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"trailer", b"te"})
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"host", b"authorization", b"content-type"})


class BadMessageError(Exception):
    """A message whose end cannot be agreed on, or that is too large. `status` is the answer to the client."""

    def __init__(self, status: int, message: str) -> None:
        """`message` is shown to the client and never quotes what the client sent."""
        super().__init__(message)
        self.status = status
        self.message = message


class RequestHead:
    """The head of one request.

    `length` is None for a chunked body; `content_type` is only that of a form, everything else is read as JSON.
    `passed` begins the message to the engine: the request line and the lines that may pass, each with its CRLF.
    `traceparent` is the value of that line, which is not in `passed`, because it may have to be another one.
    """

    __slots__ = (
        "content_type", "credential", "expects_continue", "keep_alive", "length", "method", "minor", "passed", "target",
        "traceparent",
    )  # fmt: skip

    def __init__(self, method: bytes, target: bytes, minor: int) -> None:
        """A head without header lines; `minor` is HTTP/1's minor version."""
        self.method = method
        self.target = target
        self.minor = minor
        self.passed = b""
        self.length: int | None = 0
        self.keep_alive = minor == 1
        self.expects_continue = False
        self.credential: bytes | None = None
        self.content_type = b""
        self.traceparent = b""


class ResponseHead:
    """The head of one response. `length` is None when the body is chunked or ends with the connection."""

    __slots__ = ("chunked", "event_stream", "length", "returned", "reusable", "status")

    def __init__(self, status: int, *, reusable: bool = True) -> None:
        """A head without header lines; `returned` holds those that go to the client, without CRLF."""
        self.status = status
        self.returned: list[bytes] = []
        self.length: int | None = None
        self.chunked = False
        self.reusable = reusable
        self.event_stream = False


def request_head(head: bytes) -> RequestHead:
    """Parse a head that ends with its empty line; raise `BadMessageError` for anything ambiguous.

    Clients send the same head again and again, but for the body's length and the key. A head is read line by line
    once; the next one that differs in these two lines only is read by cutting them out.
    """
    parts = _VARYING.split(head)
    if len(parts) == 4:
        rest, digits, credential = parts[0] + parts[3], parts[1], None
    elif len(parts) == 7 and (parts[1] is None) == (parts[5] is None):
        rest = b"".join((parts[0], parts[3], parts[6]))
        digits, credential = (parts[4], parts[2]) if parts[1] is None else (parts[1], parts[5])
    else:
        return _read_request(head).request
    if digits is None:
        return _read_request(head).request
    known = _heads.get(rest)
    if known is not None:
        return again(known, int(digits), credential)
    read = _read_request(head)
    if read.repeats and read.request.credential == credential and len(rest) <= MAX_KNOWN_HEAD_BYTES:
        if len(_heads) >= _MAX_HEADS:
            _heads.clear()
        _heads[rest] = again(read.request, 0, None)
    return read.request


# The two lines that differ between a client's requests: exactly as clients write them, or they stay where they are.
_VARYING: Final = re.compile(
    rb"\r\n(?:(?i:content-length): ?([0-9]{1,12})|(?i:authorization): ?(?i:bearer) ([!-~]+))(?=\r\n)"
)
_MAX_HEADS: Final = 1024
MAX_KNOWN_HEAD_BYTES: Final = 2048
# Heads that were read before, without those lines: bounded, and none that may hold a secret.
_heads: Final[dict[bytes, RequestHead]] = {}


def again(known: RequestHead, length: int, credential: bytes | None) -> RequestHead:
    """The same head with another length and key."""
    request = RequestHead(known.method, known.target, known.minor)
    request.passed = known.passed
    request.length = length
    request.keep_alive = known.keep_alive
    request.expects_continue = known.expects_continue
    request.traceparent = known.traceparent
    request.credential = credential
    return request


def _credential(value: bytes) -> bytes:
    """The secret of an Authorization line; empty for another scheme than Bearer."""
    scheme, _, secret = value.strip(b" \t").partition(b" ")
    return secret.strip(b" \t") if scheme.lower() == b"bearer" else b""


class _Reading:
    """One request's head while it is read line by line. `repeats` until a line says otherwise."""

    __slots__ = ("encodings", "hosts", "lengths", "nominated", "passed", "repeats", "request")

    def __init__(self, request: RequestHead) -> None:
        self.request = request
        self.passed: list[bytes] = []
        self.hosts = 0
        self.lengths: list[bytes] = []
        self.encodings: list[bytes] = []
        self.nominated: list[bytes] = []
        self.repeats = True


def _read_request(head: bytes) -> _Reading:
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise BadMessageError(400, "The request line is not `METHOD /path HTTP/1.1`.")
    method, target, minor = line.groups()
    request = RequestHead(method, target, int(minor))
    reading = _Reading(request)
    for text in head[line.end() : -4].split(b"\r\n") if line.end() < len(head) - 2 else ():
        known = _request_lines.get(text)
        if known is None:
            _take_line(reading, text)
        elif known != _DROPS:
            reading.passed.append(text)
            if known == _HOST:
                reading.hosts += 1
    if reading.hosts != 1 and (request.minor == 1 or reading.hosts > 1):
        raise BadMessageError(400, "A request needs exactly one Host header.")
    if not reading.hosts:
        reading.passed.append(b"host: gateway")  # we speak HTTP/1.1 to the engine
    if reading.lengths or reading.encodings:
        request.length = _body_length(reading.lengths, reading.encodings, request.minor)
    if reading.nominated:
        _apply_connection(reading)
    request.passed = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"\r\n".join(reading.passed))
    return reading


# What a header line that was read before means. Most heads are made of the same lines again and again. Bounded, and
# never with lines that may hold a secret or that say where a message ends.
_PASSES: Final = 0
_DROPS: Final = 1
_HOST: Final = 2
_EVENTS: Final = 3
_MAX_LINES: Final = 4096
_MAX_LINE_BYTES: Final = 256
_request_lines: Final[dict[bytes, int]] = {}
_response_lines: Final[dict[bytes, int]] = {}


def _learn(lines: dict[bytes, int], line: bytes, meaning: int) -> None:
    if len(lines) >= _MAX_LINES:
        lines.clear()
    if len(line) <= _MAX_LINE_BYTES:
        lines[line] = meaning


def _field(line: bytes, status: int) -> tuple[bytes, bytes]:
    """Lower-case name and stripped value of a line without its CRLF."""
    field = _FIELD.fullmatch(line)
    if field is None:
        raise BadMessageError(status, "A header line is malformed.")
    name, value = field.groups()
    return name.lower(), value.strip(b" \t")


def _take_line(reading: _Reading, line: bytes) -> None:
    request = reading.request
    name, value = _field(line, 400)
    match name:
        case b"host":
            reading.hosts += 1
            reading.passed.append(line)
            _learn(_request_lines, line, _HOST)
        case b"content-type" if value[:10].lower() == b"multipart/":
            request.content_type = value
            reading.passed.append(line)
            reading.repeats = False  # its boundary is new every time
        case b"connection" if value.lower() == b"keep-alive":
            _learn(_request_lines, line, _DROPS)
        case b"content-length":
            reading.lengths.append(value)
        case b"transfer-encoding":
            reading.encodings.append(value)
        case b"connection":
            reading.nominated += [token.strip(b" \t").lower() for token in value.split(b",")]
        case b"authorization":
            if request.credential is not None:
                raise BadMessageError(400, "A request has at most one Authorization header.")
            request.credential = _credential(value)
        case b"expect":
            _take_expectation(request, value)
        case _:
            _take_other(reading, name, value, line)


def _take_expectation(request: RequestHead, value: bytes) -> None:
    if value.lower() != b"100-continue":
        raise BadMessageError(417, "The only expectation served is 100-continue.")
    request.expects_continue = request.minor == 1


def _take_other(reading: _Reading, name: bytes, value: bytes, line: bytes) -> None:
    """Take a line that says nothing about the message's end, and remember whether it passes."""
    if name == b"traceparent":
        # Two of them make a list, which is none that anybody takes (W3C Trace Context, section 3.2.2).
        request = reading.request
        request.traceparent = request.traceparent + b"," + value if request.traceparent else value
        reading.repeats = False  # new with every request
        return
    passes = name not in _NOT_FORWARDED and not name.startswith(_OURS)
    if passes:
        reading.passed.append(line)
    if name in _SECRET:
        reading.repeats = False
    else:
        _learn(_request_lines, line, _PASSES if passes else _DROPS)


def _apply_connection(reading: _Reading) -> None:
    """What `Connection` names is dropped with it; naming what frames or authorises the request is an attack."""
    for token in reading.nominated:
        if token == b"close":
            reading.request.keep_alive = False
        elif token in _FRAMING:
            raise BadMessageError(400, "The Connection header names a header that must reach its end.")
    extra = {token + b":" for token in reading.nominated if token not in (b"close", b"keep-alive", b"")}
    if b"traceparent:" in extra:
        reading.request.traceparent = b""
    if extra:
        reading.passed = [line for line in reading.passed if line[: line.index(b":") + 1].lower() not in extra]


def _body_length(lengths: list[bytes], encodings: list[bytes], minor: int) -> int | None:
    if encodings:
        if lengths or minor == 0 or len(encodings) > 1 or encodings[0].lower() != b"chunked":
            raise BadMessageError(400, "Transfer-Encoding must be `chunked`, once, without Content-Length.")
        return None
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise BadMessageError(400, "Content-Length must be one decimal number.")
    return int(lengths[0])


def response_head(head: bytes) -> ResponseHead:
    """Parse an engine's head that ends with its empty line; raise `BadMessageError(502)` for anything ambiguous.

    As with requests: a head that differs from an earlier one in the body's length only is not read line by line.
    """
    parts = LENGTH_LINE.split(head)
    if len(parts) != 3:
        return _read_response(head)[0]
    rest = parts[0] + parts[2]
    known = _answers.get(rest)
    if known is None:
        response, repeats = _read_response(head)
        if repeats and len(rest) <= MAX_KNOWN_HEAD_BYTES:
            if len(_answers) >= _MAX_HEADS:
                _answers.clear()
            _answers[rest] = with_length(response, b"")
        return response
    return with_length(known, parts[1])


LENGTH_LINE: Final = re.compile(rb"\r\n(?i:content-length): ?([0-9]{1,12})(?=\r\n)")
_answers: Final[dict[bytes, ResponseHead]] = {}


def with_length(known: ResponseHead, digits: bytes) -> ResponseHead:
    """The same head with another length; without digits, what such heads have in common."""
    response = ResponseHead(known.status, reusable=known.reusable)
    response.event_stream = known.event_stream
    if digits:
        response.returned = [*known.returned, b"content-length: " + digits]
        response.length = 0 if known.status in _BODILESS else int(digits)
    else:
        response.returned = [line for line in known.returned if line[:15].lower() != b"content-length:"]
    return response


def _read_response(head: bytes) -> tuple[ResponseHead, bool]:
    """The head, and whether another one like it is to be expected."""
    line = _STATUS_LINE.match(head)
    if line is None:
        raise BadMessageError(502, "The engine's answer is not HTTP/1.1.")
    minor, status = line.groups()
    response = ResponseHead(int(status), reusable=minor == b"1")
    lengths: list[bytes] = []
    encodings: list[bytes] = []
    repeats = True
    for text in head[line.end() : -4].split(b"\r\n") if line.end() < len(head) - 2 else ():
        known = _response_lines.get(text)
        if known is None:
            repeats = _take_response_line(response, lengths, encodings, text) and repeats
        elif known != _DROPS:
            response.returned.append(text)
            if known == _EVENTS:
                response.event_stream = True
    if lengths or encodings:
        _take_lengths(response, lengths, encodings)
    if response.status in _BODILESS:
        response.length, response.chunked = 0, False
    return response, repeats


_BODILESS: Final = (204, 304)


def _take_response_line(response: ResponseHead, lengths: list[bytes], encodings: list[bytes], line: bytes) -> bool:
    """Take a line; returns False for one that may hold a secret."""
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
            _learn(_response_lines, line, _EVENTS)
        case _:
            passes = name not in _NOT_RETURNED
            if passes:
                response.returned.append(line)
            if name in _SECRET:
                return False
            _learn(_response_lines, line, _PASSES if passes else _DROPS)
    return True


def _take_lengths(response: ResponseHead, lengths: list[bytes], encodings: list[bytes]) -> None:
    if len(lengths) + len(encodings) > 1 or encodings not in ([], [b"chunked"]):
        raise BadMessageError(502, "The engine sent conflicting lengths.")
    if encodings:
        response.chunked = True
    elif _LENGTH.fullmatch(lengths[0]) is None:
        raise BadMessageError(502, "The engine sent a malformed Content-Length.")
    else:
        response.length = int(lengths[0])
