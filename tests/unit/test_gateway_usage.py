"""What an answer says about its tokens."""

from __future__ import annotations

import pytest

from llmops_serving.gateway.usage import Usage, usage

USAGES: list[tuple[str, bytes, int | None, bool, Usage]] = [
    (
        "a document",
        b'"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}',
        None,
        True,
        Usage(7, 3, "stop"),
    ),
    ("embeddings", b'"usage":{"prompt_tokens":7,"total_tokens":7}}', None, True, Usage(7, 0, None)),
    (
        "a stream with usage",
        b'"finish_reason":"length"}]}\n\ndata: {"usage": {"prompt_tokens": 7, "completion_tokens": 9}}',
        12,
        True,
        Usage(7, 9, "length"),
    ),
    ("a stream without", b'data: {"finish_reason":"stop"}\n\ndata: [DONE]\n\n', 12, True, Usage(None, 10, "stop")),
    ("a stream that was cut", b'data: {"x"', 5, False, Usage(None, 4, None)),
    ("a null usage", b'{"usage":null}', None, True, Usage(None, None, None)),
    (
        "nothing but what the prompt says of it",
        rb'{"content":"\"usage\":{\"prompt_tokens\":5}"}',
        None,
        True,
        Usage(None, None, None),
    ),
    (
        "details within",
        (
            b'"usage":{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":4},"total_tokens":9,"completion_tokens":2,'
            b'"completion_tokens_details":{"reasoning_tokens":1}},"prompt_logprobs":null}'
        ),
        None,
        True,
        Usage(7, 2, None),
    ),
    ("responses", b'"usage":{"input_tokens":7,"output_tokens":3,"total_tokens":10}}', None, True, Usage(7, 3, None)),
    ("a usage that was cut", b'data: {"usage":{"prompt_tokens":7,"compl', 5, False, Usage(None, 4, None)),
    (
        "what is no number",
        b'"usage":{"prompt_tokens":"7","completion_tokens":true}',
        None,
        True,
        Usage(None, None, None),
    ),
    (
        "a reason behind one that is none",
        b'"finish_reason": "length"}, {"finish_reason":null}',
        4,
        True,
        Usage(None, 2, "length"),
    ),
    ("an error", b'{"error":{}}', None, True, Usage(None, None, None)),
]


@pytest.mark.parametrize(
    ("tail", "events", "complete", "expected"), [u[1:] for u in USAGES], ids=[u[0] for u in USAGES]
)
def test_the_usage_of(tail: bytes, events: int | None, complete: bool, expected: Usage) -> None:  # noqa: FBT001
    found = usage(tail, events, complete=complete)
    told = (found.prompt, found.completion, found.finish_reason)
    assert told == (expected.prompt, expected.completion, expected.finish_reason)
