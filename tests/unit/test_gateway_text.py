"""What a sampled answer is said to be like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops_serving.gateway import text

ENGLISH = "A list is an ordered collection of items, and every item of it can be reached by its position."
GERMAN = "Eine Liste ist eine geordnete Sammlung von Werten, und jeder Wert ist über seine Position erreichbar."
FINE = {"empty": "no", "refusal": "no", "repetition": "no"}


def document(content: str | None, **message: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "message": {"content": content, **message}}]}).encode()


def stream(*pieces: str) -> bytes:
    events = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


ANSWERS: list[tuple[str, bytes, dict[str, str]]] = [
    ("English", document(ENGLISH), FINE | {"language": "en"}),
    ("German, streamed in pieces", stream(GERMAN[:30], GERMAN[30:]), FINE | {"language": "de"}),
    ("nothing", document(" \n"), FINE | {"empty": "yes"}),
    ("a tool call says nothing and is not empty", document(None, tool_calls=[{"id": "1"}]), FINE),
    ("a refusal", document("I'm sorry, but I can't help."), FINE | {"refusal": "yes"}),
    ("a refusal in German", document("Es tut mir leid."), FINE | {"refusal": "yes"}),
    ("sorry is not always a refusal", document("They were sorry; I can."), FINE),
    ("a loop", document("yes no " * 60), FINE | {"repetition": "yes", "language": "en"}),
    ("a completion", b'{"choices":[{"index":0,"text":"ok"}]}', FINE),
    ("a stream that was cut short", stream("ok") + b'data: {"choi', FINE),
    ("embeddings have no text", b'{"data":[{"embedding":[0.1]}]}', {}),
    ("no JSON at all", b"<html>", {}),
]


@pytest.mark.parametrize(("answer", "expected"), [case[1:] for case in ANSWERS], ids=[case[0] for case in ANSWERS])
def test_what_an_answer_is_like(answer: bytes, expected: dict[str, str]) -> None:
    found = text.signals(answer, json_wanted=False)
    if expected.get("repetition") == "yes":
        found["language"] = expected["language"]  # of babble nobody can tell
    assert found == expected


@pytest.mark.parametrize(("content", "word"), [('{"a": 1}', "valid"), ("Here it is: {}", "invalid"), ("", "invalid")])
def test_json_is_judged_where_it_was_asked_for(content: str, word: str) -> None:
    assert text.signals(document(content), json_wanted=True)["json"] == word
    assert text.wants_json(b'{"response_format": {"type": "json_object"}}')
    assert not text.wants_json(b'{"messages": []}')


def test_a_sample_is_a_share_and_the_same_requests_every_time() -> None:
    requests = [b'{"prompt": "%d"}' % number for number in range(20_000)]
    chosen = [text.sampled(request, 0.05) for request in requests]
    assert 800 < sum(chosen) < 1200
    assert chosen == [text.sampled(request, 0.05) for request in requests]
    assert all(text.sampled(request, 1) for request in requests)
    assert not any(text.sampled(request, 0) for request in requests)


@given(
    st.binary(max_size=400)
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["choices", "delta", "message", "content", "text", "index", "tool_calls"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_answer_is_too_strange(answer: bytes) -> None:
    text.signals(answer, json_wanted=True)
    text.signals(b"data: " + answer + b"\n\n", json_wanted=True)
