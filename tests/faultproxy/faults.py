"""What can go wrong with one write."""

from __future__ import annotations

from enum import StrEnum

import orjson


class Fault(StrEnum):
    """A fault, by what a reader of the outcome page calls it."""

    KILL_BEFORE = "kill -9 before"
    KILL_AFTER = "kill -9 after"
    CONFLICT = "409"
    INVALID = "422"
    THROTTLED = "429"
    INTERNAL = "500"
    UNAVAILABLE = "503"
    TIMEOUT = "504"
    RESET = "reset"
    LOST = "reply lost"
    TRUNCATED = "truncated"
    HANG = "hang"
    DELAY = "delay"
    DELETED = "deleted"
    RECREATED = "recreated"

    @property
    def kills(self) -> bool:
        return self in (Fault.KILL_BEFORE, Fault.KILL_AFTER)

    @property
    def commits(self) -> bool:
        """Whether the API server carries the write out nevertheless."""
        return self in _COMMITTED


_COMMITTED = (Fault.KILL_AFTER, Fault.LOST, Fault.TRUNCATED, Fault.DELAY, Fault.DELETED, Fault.RECREATED)
ENDING = (Fault.DELETED, Fault.RECREATED)  # the object does not survive them: only for a step that creates it
MEANING = {
    Fault.KILL_BEFORE: "the operator is killed before the write reaches the API server, and started again",
    Fault.KILL_AFTER: "the operator is killed after the write is committed and before it hears of it",
    Fault.CONFLICT: "answered 409 Conflict, not carried out",
    Fault.INVALID: "answered 422 Unprocessable Entity, not carried out",
    Fault.THROTTLED: "answered 429 with Retry-After: 2, not carried out",
    Fault.INTERNAL: "answered 500, not carried out",
    Fault.UNAVAILABLE: "answered 503, not carried out",
    Fault.TIMEOUT: "answered 504, not carried out",
    Fault.RESET: "the connection is reset before the write reaches the API server",
    Fault.LOST: "the write is committed and the connection reset before the answer",
    Fault.TRUNCATED: "the write is committed and the connection ends in the middle of the answer",
    Fault.HANG: "no answer, not carried out, until the client gives up",
    Fault.DELAY: "carried out and answered after 3 s",
    Fault.DELETED: "the user deletes the object while the write is on its way; nothing may be left",
    Fault.RECREATED: "the user deletes and creates the object anew while the write is on its way",
}
RETRY_AFTER_SECONDS = 2
DELAY_SECONDS = 3.0
REASONS = {
    Fault.CONFLICT: "Conflict",
    Fault.INVALID: "Invalid",
    Fault.THROTTLED: "TooManyRequests",
    Fault.INTERNAL: "InternalError",
    Fault.UNAVAILABLE: "ServiceUnavailable",
    Fault.TIMEOUT: "Timeout",
}


def refusal(code: int, reason: str, message: str = "injected by the fault proxy") -> bytes:
    """A failure as the API server words it."""
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return orjson.dumps({**status, "message": message, "reason": reason, "code": code})
