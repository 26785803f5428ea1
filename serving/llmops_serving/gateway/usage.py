"""What an answer says about its tokens, read from its last bytes only. Pure.

A streamed answer carries `usage` only when the client asked for it (`stream_options.include_usage`). Bodies are not
rewritten to ask on its behalf, because that would change what the client gets; without it the completion tokens are
the streamed data events less the two that carry no token, and the prompt tokens are unknown.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})')
_COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})')
_FINISH = re.compile(rb'finish_reason"\s*:\s*"([a-z_]{1,32})"')


class Usage(NamedTuple):
    """Tokens of one answer; None where nobody knows."""

    prompt: int | None
    completion: int | None
    finish_reason: str | None


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
        prompt = _PROMPT.search(tail, at)
        completion = _COMPLETION.search(tail, at)
        if prompt or completion:
            return Usage(int(prompt[1]) if prompt else None, int(completion[1]) if completion else 0, reason)
    if events is None:
        return Usage(None, None, reason)
    return Usage(None, max(0, events - (2 if complete else 1)), reason)


def _finish_reason(tail: bytes) -> str | None:
    """The last one that is not null: a stream has one in every event."""
    end = len(tail)
    while (at := tail.rfind(b'finish_reason"', 0, end)) >= 0:
        if found := _FINISH.match(tail, at):
            return found[1].decode()
        end = at
    return None
