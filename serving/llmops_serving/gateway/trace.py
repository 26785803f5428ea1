"""One request as a trace: which ones are recorded, how the engine is told, what happened when.

W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context/). A client's `traceparent` is obeyed: its request is
recorded when it says so and not when it says not; of the others a share is. What is not recorded costs one comparison.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final

from llmops_serving.gateway.usage import Usage

_PARENT: Final = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1


class Attempt:
    """One call of a pod, as a span of its own: its id is what the engine's spans hang on."""

    __slots__ = ("address", "began", "ended", "failure", "pod", "span_id")

    def __init__(self, span_id: int, pod: str, address: str, began: float) -> None:
        """Times are the gateway's monotonic seconds; `ended` is 0 while it goes on."""
        self.span_id = span_id
        self.pod = pod
        self.address = address
        self.began = began
        self.ended = 0.0
        self.failure = ""


class Trace:
    """A recorded request. Whoever finished it reads it; nothing of what was said is in it."""

    __slots__ = (
        "adapter", "asked", "attempts", "complete", "ended", "first_at", "model", "namespace", "next_id", "parent_id",
        "path", "served", "span_id", "started", "started_at", "status", "stream", "tenant", "trace_id", "usage",
    )  # fmt: skip

    def __init__(self, trace_id: int, parent_id: int, span_id: int, next_id: int) -> None:
        """`parent_id` is 0 for a trace that begins here; `next_id` is the first attempt's."""
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.span_id = span_id
        self.next_id = next_id
        self.attempts: list[Attempt] = []
        self.path = b""
        self.asked = ""
        self.served = ""
        self.namespace = ""
        self.model = ""
        self.adapter = ""
        self.tenant = ""
        self.stream = False
        self.started = 0.0  # monotonic, as the attempts' times
        self.started_at = 0.0  # the same moment since 1970
        self.first_at = 0.0
        self.ended = 0.0
        self.status = 0
        self.complete = False
        self.usage: Usage | None = None

    @property
    def traceparent(self) -> bytes:
        """What the next attempt's engine is told."""
        return b"00-%032x-%016x-01" % (self.trace_id, self.next_id)

    def attempt(self, pod: str, address: str, now: float, request: list[bytes]) -> list[bytes]:
        """A call begins; returns the message for it, which names this call as the engine's parent."""
        if self.attempts:
            self.left("", now)
            told = self.traceparent
            self.next_id = _span_id()
            request = [request[0].replace(told, self.traceparent, 1), *request[1:]]
        self.attempts.append(Attempt(self.next_id, pod, address, now))
        return request

    def left(self, failure: str, now: float) -> None:
        """The last call is over; `failure` says how, in the gateway's words, and is empty when it went well."""
        if self.attempts and not self.attempts[-1].ended:
            self.attempts[-1].ended = now
            self.attempts[-1].failure = failure


class Tracer:
    """Decides which requests are recorded, and gives those that are over to `write`."""

    __slots__ = ("_ratio", "write")

    def __init__(self, ratio: float, write: Callable[[Trace], object]) -> None:
        """`ratio` is the share of requests that no client decided about, from 0 to 1."""
        self._ratio = ratio
        self.write = write

    def begin(self, traceparent: bytes) -> Trace | None:
        """A trace for a request with this header, empty if it had none; None if it is not recorded."""
        told = _PARENT.fullmatch(traceparent) if traceparent else None
        if told is None or (told[1] == b"00" and told[5] is not None):
            if random.random() >= self._ratio:  # noqa: S311 - ids need to differ, not to be unguessable
                return None
            return Trace(random.getrandbits(128) or 1, 0, _span_id(), _span_id())
        if not int(told[4], 16) & _SAMPLED:
            return None
        return Trace(int(told[2], 16), int(told[3], 16), _span_id(), _span_id())


def _span_id() -> int:
    return random.getrandbits(64) or 1
