"""A second reader of HTTP/1.1, written from RFC 9112 and sharing nothing with the gateway: one byte at a time, slowly.

It answers one question: in this stream of bytes, where does each request begin and end, and where is the stream no
longer understood? A proxy that answers differently can be made to join or to split requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MAX_HEAD = 32 * 1024
End = Literal["incomplete", "refused", "closed"]
TCHAR = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
HEX = frozenset(b"0123456789abcdefABCDEF")
DIGITS = frozenset(b"0123456789")


@dataclass
class Reading:
    """The requests of a stream as (method, target, body), and how it ended."""

    requests: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    end: End = "incomplete"


class RefusedError(Exception):
    pass


class IncompleteError(Exception):
    pass


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise IncompleteError
        self.at += 1
        return self.data[self.at - 1]

    def line(self) -> bytes:
        """Up to CRLF; a CR or LF on its own is an error."""
        found = bytearray()
        while True:
            byte = self.byte()
            if byte == 10:
                raise RefusedError
            if byte == 13:
                if self.byte() != 10:
                    raise RefusedError
                return bytes(found)
            found.append(byte)

    def exactly(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise IncompleteError
        self.at += count
        return self.data[self.at - count : self.at]


def head_end(data: bytes, at: int) -> int | None:
    """A head ends with the first CRLF CRLF, whatever is wrong with it."""
    for place in range(at, len(data) - 3):
        if data[place : place + 4] == b"\r\n\r\n":
            return place + 4
    return None


def read(data: bytes, engine_paths: frozenset[bytes]) -> Reading:
    """Read a whole stream."""
    reading = Reading()
    at = 0
    while True:
        end = head_end(data, at)
        if end is None:
            if len(data) - at > MAX_HEAD:
                reading.end = "refused"
            return reading
        try:
            method, target, length, keep = head(Reader(data[at:end]))
        except (RefusedError, IncompleteError):
            reading.end = "refused"
            return reading
        if method != b"POST" or target.split(b"?")[0] not in engine_paths:
            reading.requests.append((method, target, b""))
            if length != 0 or not keep:
                reading.end = "closed"
                return reading
            at = end
            continue
        reader = Reader(data)
        reader.at = end
        try:
            body = chunked(reader) if length is None else reader.exactly(length)
        except IncompleteError:
            return reading
        except RefusedError:
            reading.end = "refused"
            return reading
        reading.requests.append((method, target, body))
        if not keep:
            reading.end = "closed"
            return reading
        at = reader.at


def head(reader: Reader) -> tuple[bytes, bytes, int | None, bool]:
    """Method, target, length (None: chunked) and whether the connection stays open."""
    method, target, minor = request_line(reader.line())
    fields: list[tuple[bytes, bytes]] = []
    while line := reader.line():
        name, colon, value = line.partition(b":")
        if not colon or not name or any(byte not in TCHAR for byte in name):
            raise RefusedError
        if any((byte < 32 and byte != 9) or byte == 127 for byte in value):
            raise RefusedError
        fields.append((name.lower(), value.strip(b" \t")))
    return method, target, *semantics(fields, minor)


def request_line(line: bytes) -> tuple[bytes, bytes, int]:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise RefusedError
    method, target, version = parts
    if not 1 <= len(method) <= 16 or any(not 65 <= byte <= 90 for byte in method):
        raise RefusedError
    if not target.startswith(b"/") or any(not 33 <= byte <= 126 for byte in target):
        raise RefusedError
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise RefusedError
    return method, target, version[-1] - 48


def semantics(fields: list[tuple[bytes, bytes]], minor: int) -> tuple[int | None, bool]:
    def all_of(name: bytes) -> list[bytes]:
        return [value for each, value in fields if each == name]

    hosts = len(all_of(b"host"))
    if hosts > 1 or (minor == 1 and hosts == 0) or len(all_of(b"authorization")) > 1:
        raise RefusedError
    if any(value.lower() != b"100-continue" for value in all_of(b"expect")):
        raise RefusedError
    options = [option.strip(b" \t").lower() for value in all_of(b"connection") for option in value.split(b",")]
    if set(options) & {b"content-length", b"transfer-encoding", b"host", b"authorization", b"content-type"}:
        raise RefusedError
    keep = minor == 1 and b"close" not in options
    encodings, lengths = all_of(b"transfer-encoding"), all_of(b"content-length")
    if encodings:
        if lengths or minor == 0 or [encoding.lower() for encoding in encodings] != [b"chunked"]:
            raise RefusedError
        return None, keep
    if not lengths:
        return 0, keep
    if len(lengths) != 1 or not 1 <= len(lengths[0]) <= 12 or any(byte not in DIGITS for byte in lengths[0]):
        raise RefusedError
    return int(lengths[0]), keep


def chunked(reader: Reader) -> bytes:
    body = bytearray()
    while size := chunk_size(reader):
        body += exactly_or_refuse(reader, size)
    if (reader.byte(), reader.byte()) != (13, 10):
        raise RefusedError
    return bytes(body)


def exactly_or_refuse(reader: Reader, size: int) -> bytes:
    payload = reader.exactly(size)
    for expected in b"\r\n":
        if reader.byte() != expected:
            raise RefusedError
    return payload


def chunk_size(reader: Reader) -> int:
    digits = bytearray()
    while (byte := reader.byte()) in HEX:
        digits.append(byte)
        if len(digits) > 8:
            raise RefusedError
    if not digits or byte != 13 or reader.byte() != 10:
        raise RefusedError
    return int(digits, 16)
