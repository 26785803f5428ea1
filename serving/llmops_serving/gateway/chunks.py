"""Where a chunked body ends (RFC 9112 section 7.1), for both legs. No chunk extensions, no trailers."""

from __future__ import annotations

import re
from typing import Final

from llmops_serving.gateway.http1 import BadMessageError

MAX_CHUNK_LINE: Final = 10  # eight hexadecimal digits and CRLF
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,8}")
_MAX_SIZES: Final = 4096
_sizes: Final[dict[bytes, int]] = {}  # size lines that were read before: an engine's tokens have few different lengths


class ChunkedBody:
    """Decoder of a chunked body that may be cut anywhere. `done` once its last byte was read."""

    __slots__ = ("_last", "_left", "_line", "done")

    def __init__(self) -> None:
        """Start before the first chunk's size line."""
        self._left = 0  # bytes missing of the current chunk, its closing CRLF included
        self._line = b""
        self._last = False  # the size line of the last chunk was read
        self.done = False

    def whole(self, data: bytes) -> bool:
        """Whether `data` begins where a chunk begins and is nothing but whole chunks; if so they count as read.

        What an engine sends is nearly always that, and then nothing has to be taken apart. If not, nothing is read.
        """
        if self._left or self._line or self._last:
            return False
        at, end = 0, len(data)
        while at < end:
            stop = data.find(b"\r\n", at, at + MAX_CHUNK_LINE)
            if stop < 0:
                return False
            line = data[at:stop]
            size = _sizes.get(line, -1)
            if size < 0 and (size := _learned(line)) < 0:
                return False
            at = stop + 2 + size
            if not size:
                self.done = data[at:] == b"\r\n"
                return self.done
            if data[at : at + 2] != b"\r\n":
                return False
            at += 2
        return True

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


def payloads(data: bytes) -> list[bytes]:
    """The payloads in what `ChunkedBody.whole` has accepted."""
    return ChunkedBody().feed(data)[0]


def _learned(line: bytes) -> int:
    """The number in a size line without its CRLF, remembered; -1 when there is none."""
    if _CHUNK_SIZE.fullmatch(line) is None:
        return -1
    if len(_sizes) >= _MAX_SIZES:
        _sizes.clear()
    size = _sizes[line] = int(line, 16)
    return size
