"""What an answer says about its tokens, read from its last bytes only. Pure.

A streamed answer carries `usage` only when the client asked for it (`stream_options.include_usage`). Bodies are not
rewritten to ask on its behalf, because that would change what the client gets; without it the completion tokens are
the streamed data events less the two that carry no token, and the prompt tokens are unknown.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

# Of chat completions and completions; of responses and messages.
_PROMPT: Final = ("prompt_tokens", "input_tokens")
_COMPLETION: Final = ("completion_tokens", "output_tokens")
_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details")
_CACHED: Final = ("cached_tokens", "cache_read_input_tokens")
_MANY: Final = 1_000_000_000  # tokens: no engine counts so far
_USAGE_FIELD: Final = b'"usage"'
_OBJECT: Final = re.compile(rb"\s*:\s*(?=\{)")
_MAX_INNER_OBJECTS: Final = 4
_REASON: Final = re.compile(rb'\s*:\s*"([a-z_]{1,32})"')
_REASON_FIELD: Final = b'finish_reason"'
_STOPPED: Final = b':"stop"'  # as most answers end


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
    said = _said(tail)
    prompt, completion = _count(said, _PROMPT), _count(said, _COMPLETION)
    if prompt is not None or completion is not None:
        return Usage(prompt, completion or 0, reason, _cached(said))
    if events is None:
        return Usage(None, None, reason)
    return Usage(None, max(0, events - (2 if complete else 1)), reason)


def _said(tail: bytes) -> dict[str, Any]:
    """The last `usage` that is an object, if it is whole; else empty."""
    at = tail.rfind(_USAGE_FIELD)
    opening = _OBJECT.match(tail, at + len(_USAGE_FIELD)) if at >= 0 else None
    if opening is None:
        return {}
    begin = end = opening.end()
    for _ in range(_MAX_INNER_OBJECTS + 1):
        end = tail.find(b"}", end) + 1
        if not end:
            break
        try:
            found = orjson.loads(tail[begin:end])
        except orjson.JSONDecodeError:  # the end of an object in it
            continue
        return found if type(found) is dict else {}
    return {}


def _count(said: dict[str, Any], names: tuple[str, str]) -> int | None:
    """The number that has one of these names."""
    for name in names:
        value = said.get(name)
        if type(value) is int and 0 <= value < _MANY:
            return value
    return None


def _cached(said: dict[str, Any]) -> int | None:
    """How much of the prompt came from the engine's cache."""
    for name in _DETAILS:
        details = said.get(name)
        if type(details) is dict:
            return _count(details, _CACHED)
    return _count(said, _CACHED)


def _finish_reason(tail: bytes) -> str | None:
    """The last one that is not null: a stream has one in every event."""
    at = len(tail)
    while (at := tail.rfind(_REASON_FIELD, 0, at)) >= 0:
        end = at + len(_REASON_FIELD)
        if tail.startswith(_STOPPED, end):
            return "stop"
        if found := _REASON.match(tail, end):
            return found[1].decode()
    return None
