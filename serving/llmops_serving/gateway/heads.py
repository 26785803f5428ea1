"""The heads of one connection, where each is mostly the one before it but for the body's length.

Such a head is told by comparing bytes: nothing of it is taken apart, not even its key.
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

    __slots__ = ("_known", "_last", "end")

    def __init__(self) -> None:
        """Nothing came yet."""
        self._last = _Recurring()
        self._known: RequestHead | None = None
        self.end = 0

    def again(self, data: bytes) -> RequestHead | None:
        """The head at the beginning of `data`, if it is the last one again; its credential is the same object."""
        known = self._known
        if known is None:
            return None
        digits = self._last.digits(data)
        if not digits:
            return None
        self.end = self._last.end
        return again(known, int(digits), known.credential)

    def read(self, head: bytes) -> RequestHead:
        """Parse a whole head as `request_head` does, and remember it. A form's boundary is new every time."""
        request = request_head(head)
        repeats = not request.content_type and request.length is not None and self._last.learn(head)
        self._known = request if repeats else None
        return request


class ResponseHeads:
    """What an engine answers. `end` is where the head ends that `again` gave back."""

    __slots__ = ("_known", "_last", "end")

    def __init__(self) -> None:
        """Nothing came yet."""
        self._last = _Recurring()
        self._known: ResponseHead | None = None
        self.end = 0

    def again(self, data: bytes) -> ResponseHead | None:
        """The head at the beginning of `data`, if it is the last one again."""
        known = self._known
        if known is None:
            return None
        digits = self._last.digits(data)
        if not digits:
            return None
        self.end = self._last.end
        return with_length(known, digits)

    def read(self, head: bytes) -> ResponseHead:
        """Parse a whole head as `response_head` does, and remember it."""
        response = response_head(head)
        repeats = response.length is not None and self._last.learn(head)
        self._known = with_length(response, b"") if repeats else None
        return response


class _Recurring:
    """A head's bytes around the digits of its Content-Length. A valid head has one length and one end."""

    __slots__ = ("_after", "_before", "end")

    def __init__(self) -> None:
        self._before = b""
        self._after = b""
        self.end = 0

    def learn(self, head: bytes) -> bool:
        """Expect this valid head again; False if it has no length, or is longer than what is worth keeping."""
        found = LENGTH_LINE.search(head) if len(head) <= MAX_KNOWN_HEAD_BYTES else None
        if found is None:
            return False
        self._before = head[: found.start(1)]
        self._after = head[found.end(1) :]
        return True

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
