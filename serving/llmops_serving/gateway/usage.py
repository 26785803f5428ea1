"""What an answer says about its tokens, read from its last bytes only. Pure.

A streamed answer carries `usage` only when the client asked for it (`stream_options.include_usage`). Bodies are not
rewritten to ask on its behalf, because that would change what the client gets; without it the completion tokens are
the streamed data events less the two that carry no token, and the prompt tokens are unknown.
"""

from __future__ import annotations

import re
from typing import Final

# As vLLM writes it; other orders and names are found field by field.
_USUAL: Final = re.compile(
    rb'"usage": ?\{"prompt_tokens": ?(\d{1,9}), ?"total_tokens": ?\d{1,9}, ?"completion_tokens": ?(\d{1,9})'
)
_PROMPT: Final = (b'"prompt_tokens"', b'"input_tokens"')
_COMPLETION: Final = (b'"completion_tokens"', b'"output_tokens"')
_CACHED: Final = (b'"cached_tokens"', b'"cache_read_input_tokens"')
_NUMBER: Final = re.compile(rb"\s*:\s*(\d{1,9})")
_REASON: Final = re.compile(rb'\s*:\s*"([a-z_]{1,32})"')
_REASON_FIELD: Final = b'finish_reason"'


class Usage:
    """Tokens of one answer; None where nobody knows."""

    __slots__ = ("cached", "completion", "finish_reason", "prompt")

    def __init__(
        self, prompt: int | None, completion: int | None, finish_reason: str | None, cached: int | None = None
    ) -> None:
        """`cached` prompt tokens came from the engine's cache; engines say so only when told to."""
        self.cached = cached
        self.prompt = prompt
        self.completion = completion
        self.finish_reason = finish_reason


def usage(tail: bytes, events: int | None, *, complete: bool) -> Usage:
    """Read `tail`, the end of an answer.

    Args:
        tail: At least the last two events of a stream, or the last kilobytes of a document.
        events: How many data events a stream had; None for a document.
        complete: Whether the answer ended regularly; a stream that was cut has no closing event.
    """
    reason = _finish_reason(tail)
    at = tail.rfind(b'"usage"')
    if at >= 0:
        if usual := _USUAL.match(tail, at):
            return Usage(int(usual[1]), int(usual[2]), reason, _number(tail, usual.end(), _CACHED))
        prompt, completion = _number(tail, at, _PROMPT), _number(tail, at, _COMPLETION)
        if prompt is not None or completion is not None:
            return Usage(prompt, completion or 0, reason, _number(tail, at, _CACHED))
    if events is None:
        return Usage(None, None, reason)
    return Usage(None, max(0, events - (2 if complete else 1)), reason)


def _number(tail: bytes, at: int, names: tuple[bytes, bytes]) -> int | None:
    """The number of the first field after `at` that has one of these names."""
    for name in names:
        field = tail.find(name, at)
        if field >= 0:
            found = _NUMBER.match(tail, field + len(name))
            return int(found[1]) if found else None
    return None


def _finish_reason(tail: bytes) -> str | None:
    """The last one that is not null: a stream has one in every event."""
    at = len(tail)
    while (at := tail.rfind(_REASON_FIELD, 0, at)) >= 0:
        if found := _REASON.match(tail, at + len(_REASON_FIELD)):
            return found[1].decode()
    return None
