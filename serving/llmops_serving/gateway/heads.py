"""The heads of one connection, where each is mostly the one before it but for the body's length.

Such a head is told by comparing bytes: nothing of it is taken apart, not even its key. Kept is what came second, so
that a connection for one request, of which there may be thousands with a stream each, costs no memory for it.
"""

from __future__ import annotations

from typing import Final

from llmops_serving.gateway.http1 import (
    LENGTH_LINE,
    MAX_KNOWN_HEAD_BYTES,
    RequestHead,
    ResponseHead,
    again,
    request_head,
    response_head,
    with_length,
)

_MAX_DIGITS: Final = 12


class RequestHeads:
    """What a client sends. `end` is where the head ends that `again` gave back."""

    __slots__ = ("_known", "_last", "_more", "end")

    def __init__(self) -> None:
        """Nothing came yet."""
        self._last: _Recurring | None = None
        self._known: RequestHead | None = None
        self._more = False
        self.end = 0

    def again(self, data: bytes) -> RequestHead | None:
        """The head at the beginning of `data`, if it is the last one again; its credential is the same object."""
        known, last = self._known, self._last
        if known is None or last is None:
            return None
        digits = last.digits(data)
        if not digits:
            return None
        self.end = last.end
        return again(known, int(digits), known.credential)

    def read(self, head: bytes) -> RequestHead:
        """Parse a whole head as `request_head` does, and remember it. A form's boundary is new every time."""
        request = request_head(head)
        repeats = self._more and not request.content_type and request.length is not None
        self._last = _recurring(head) if repeats else None
        self._known = request if self._last is not None else None
        self._more = True
        return request


class ResponseHeads:
    """What an engine answers. `end` is where the head ends that `again` gave back."""

    __slots__ = ("_known", "_last", "_more", "end")

    def __init__(self) -> None:
        """Nothing came yet."""
        self._last: _Recurring | None = None
        self._known: ResponseHead | None = None
        self._more = False
        self.end = 0

    def again(self, data: bytes) -> ResponseHead | None:
        """The head at the beginning of `data`, if it is the last one again."""
        known, last = self._known, self._last
        if known is None or last is None:
            return None
        digits = last.digits(data)
        if not digits:
            return None
        self.end = last.end
        return with_length(known, digits)

    def read(self, head: bytes) -> ResponseHead:
        """Parse a whole head as `response_head` does, and remember it."""
        response = response_head(head)
        self._last = _recurring(head) if self._more and response.length is not None else None
        self._known = with_length(response, b"") if self._last is not None else None
        self._more = True
        return response


def _recurring(head: bytes) -> _Recurring | None:
    """What tells this valid head again; None if it has no length, or is longer than what is worth keeping."""
    found = LENGTH_LINE.search(head) if len(head) <= MAX_KNOWN_HEAD_BYTES else None
    return None if found is None else _Recurring(head[: found.start(1)], head[found.end(1) :])


class _Recurring:
    """A head's bytes around the digits of its Content-Length. A valid head has one length and one end."""

    __slots__ = ("_after", "_before", "end")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        self._after = after
        self.end = 0

    def digits(self, data: bytes) -> bytes:
        """The digits of the length in this head, if `data` begins with it; else nothing."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return b""
        at = len(before)
        stop = data.find(b"\r", at, at + _MAX_DIGITS + 1)
        if stop < 0 or not data.startswith(after, stop):
            return b""
        digits = data[at:stop]
        self.end = stop + len(after)
        return digits if digits.isdigit() else b""
