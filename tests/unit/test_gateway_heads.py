"""A head that is told by its bytes says what it would say if it were read."""

from __future__ import annotations

import pytest

from llmops_serving.gateway.heads import RequestHeads, ResponseHeads
from llmops_serving.gateway.http1 import RequestHead, ResponseHead, request_head, response_head

START = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
REQUESTS = [
    ("plain", START + b"Content-Length: 5\r\n\r\n"),
    ("with a key", START + b"Authorization: Bearer a\r\nContent-Length: 5\r\nX: y\r\n\r\n"),
    ("with a key in another header", START + b"Content-Length: 5\r\nX-Api-Key: a\r\n\r\n"),
    ("with a trace", START + b"content-length:5\r\ntraceparent: 00-1-2-01\r\n\r\n"),
    ("that waits for leave", START + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"),
    ("that is the last", START + b"Content-Length: 5\r\nConnection: close\r\n\r\n"),
    ("in HTTP/1.0", b"POST /v1/completions HTTP/1.0\r\nContent-Length: 5\r\n\r\n"),
]


@pytest.mark.parametrize("head", [case[1] for case in REQUESTS], ids=[case[0] for case in REQUESTS])
def test_a_request(head: bytes) -> None:
    heads = RequestHeads()
    heads.read(head)
    assert heads.again(head) is None, "a connection for one request keeps nothing"
    heads.read(head)
    other = head.replace(b"5", b"1234", 1)
    found = heads.again(other + b"body")
    assert found is not None
    assert heads.end == len(other)
    assert fields(found) == fields(request_head(other))
    assert heads.again(head.replace(b"/v1/", b"/v2/")) is None
    assert heads.again(other[:-1]) is None


def test_a_form_is_read_every_time() -> None:
    heads = RequestHeads()
    head = START + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\n"
    for _ in range(3):
        heads.read(head)
        assert heads.again(head) is None


ANSWERS = [
    ("plain", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\n"),
    ("without a body", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    ("in HTTP/1.0", b"HTTP/1.0 200 OK\r\nSet-Cookie: a\r\nContent-Length: 5\r\n\r\n"),
]


@pytest.mark.parametrize("head", [case[1] for case in ANSWERS], ids=[case[0] for case in ANSWERS])
def test_an_answer(head: bytes) -> None:
    heads = ResponseHeads()
    heads.read(head)
    heads.read(head)
    other = head.replace(b"5", b"1234", 1)
    found = heads.again(other + b"body")
    assert found is not None
    assert heads.end == len(other)
    read = response_head(other)
    assert sorted(map(bytes.lower, found.returned)) == sorted(map(bytes.lower, read.returned))
    assert {**fields(found), "returned": []} == {**fields(read), "returned": []}


def fields(head: RequestHead | ResponseHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in dir(head) if not name.startswith("_")}
