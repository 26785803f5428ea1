"""Where a request ends: the gateway and a second reader, written from the RFC, must agree on every stream."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.gateway import fuzz
from bench.gateway.fuzz import cuts, disagreement, gateway_reading, stream
from llmops_serving.gateway.chunks import ChunkedBody
from llmops_serving.gateway.http1 import BadMessageError, response_head

START = b"POST /v1/completions HTTP/1.1\r\n"
SMUGGLED = [
    ("two lengths", START + b"Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("two equal lengths", START + b"Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("a list of lengths", START + b"Host: a\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("a signed length", START + b"Host: a\r\nContent-Length: +5\r\n\r\nhello"),
    ("a length in other digits", START + b"Host: a\r\nContent-Length: \xd9\xa5\r\n\r\nhello"),
    ("an endless length", START + b"Host: a\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    ("an empty length", START + b"Host: a\r\nContent-Length:\r\n\r\n"),
    ("a length and chunks", START + b"Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunks twice", START + b"Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunks and identity", START + b"Host: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("an unknown encoding", START + b"Host: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("a vertical tab after chunked", START + b"Host: a\r\nTransfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", START + b"Host: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a folded header", START + b"Host: a\r\nX: a\r\n b\r\n\r\n"),
    ("a header that begins with a space", START + b" Host: a\r\n\r\n"),
    ("a bare line feed", START + b"Host: a\nContent-Length: 5\r\n\r\nhello"),
    ("a bare carriage return", START + b"Host: a\r\nX: a\rContent-Length: 5\r\n\r\nhello"),
    ("a NUL", START + b"Host: a\r\nX: a\x00b\r\n\r\n"),
    ("no host", START + b"X: y\r\n\r\n"),
    ("two hosts", START + b"Host: a\r\nHost: b\r\n\r\n"),
    ("two keys", START + b"Host: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n"),
    ("a hop-by-hop length", START + b"Host: a\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello"),
    ("a hop-by-hop key", START + b"Host: a\r\nConnection: authorization\r\n\r\n"),
    ("chunks in HTTP/1.0", b"POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("an absolute target", b"POST http://b/v1/completions HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("two spaces", b"POST  /v1/completions HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("an empty line first", b"\r\n" + START + b"Host: a\r\n\r\n"),
    ("an unknown expectation", START + b"Host: a\r\nExpect: 200-ok\r\n\r\n"),
    ("a chunk extension", START + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"),
    ("a trailer", START + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n"),
    ("a chunk with a line feed only", START + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
    ("a chunk longer than its size", START + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n"),
    ("a negative chunk", START + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n"),
    ("a chunk size with a prefix", START + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk size of nine digits", START + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n000000005\r\nhello\r\n"),
    ("a head of 40 KB", START + b"Host: a\r\nX: " + b"y" * 40_000),
]


@pytest.mark.parametrize("data", [case[1] for case in SMUGGLED], ids=[case[0] for case in SMUGGLED])
def test_refused_however_it_is_cut(data: bytes) -> None:
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        reading = gateway_reading(pieces)
        assert (reading.requests, reading.end) == ([], "refused")


TAKEN = [
    ("a length", START + b"Host: a\r\nContent-Length: 5\r\n\r\nhello", [b"hello"]),
    ("chunks", START + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", [b"hello"]),
    ("leading zeros", START + b"Host: a\r\nTransfer-Encoding: Chunked\r\n\r\n0005\r\nhello\r\n00\r\n\r\n", [b"hello"]),
    ("two requests", (START + b"Host: a\r\nContent-Length: 2\r\n\r\nhi") * 2, [b"hi", b"hi"]),
    ("a request in a body", START + b"Host: a\r\nContent-Length: 9\r\n\r\nGET / HTT", [b"GET / HTT"]),
]


@pytest.mark.parametrize(("data", "bodies"), [case[1:] for case in TAKEN], ids=[case[0] for case in TAKEN])
def test_taken_however_it_is_cut(data: bytes, bodies: list[bytes]) -> None:
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        assert [body for _, _, body in gateway_reading(pieces).requests] == bodies


FIRST = START + b"Host: a\r\nAuthorization: Bearer a\r\nContent-Length: 5\r\nX: y\r\n\r\n"
NEXT = [
    ("the same head", FIRST + b"hello", [b"hello"] * 2),
    ("another length", FIRST.replace(b" 5", b" 2") + b"hi", [b"hello", b"hi"]),
    ("a longer length", FIRST.replace(b" 5", b" 11") + b"hello again", [b"hello", b"hello again"]),
    ("leading zeros", FIRST.replace(b" 5", b" 0002") + b"hi", [b"hello", b"hi"]),
    ("a signed length", FIRST.replace(b" 5", b" +5") + b"hello", [b"hello"]),
    ("an empty length", FIRST.replace(b" 5", b" ") + b"hello", [b"hello"]),
    ("a length of thirteen digits", FIRST.replace(b" 5", b" 0000000000005") + b"hello", [b"hello"]),
    ("a length and a bare line feed", FIRST.replace(b" 5\r\n", b" 5\n") + b"hello", [b"hello"]),
    ("a second length", FIRST.replace(b"X: y", b"Content-Length: 6") + b"hello!", [b"hello"]),
    ("a line after the last", FIRST[:-2] + b"Content-Length: 6\r\n\r\nhello!", [b"hello"]),
    ("chunks instead", FIRST.replace(b"X: y", b"Transfer-Encoding: chunked") + b"hello", [b"hello"]),
]


@pytest.mark.parametrize(("following", "bodies"), [case[1:] for case in NEXT], ids=[case[0] for case in NEXT])
def test_what_follows_a_request_on_its_connection_is(following: bytes, bodies: list[bytes]) -> None:
    data = FIRST + b"hello" + following
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        assert [body for _, _, body in gateway_reading(pieces).requests] == bodies


@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 2**64))
def test_both_readers_agree(seed: int) -> None:
    rng = random.Random(seed)
    data = stream(rng)
    assert disagreement(data, cuts(rng, data)) is None, data


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([*fuzz.LINES, *fuzz.HEADERS, *fuzz.BODIES, *fuzz.BYTES]), max_size=30), st.integers())
def test_both_readers_agree_on_rubble(parts: list[bytes], seed: int) -> None:
    data = b"\r\n".join(parts)
    assert disagreement(data, cuts(random.Random(seed), data)) is None, data


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), st.data())
def test_chunks_are_decoded_whatever_their_cuts(payloads: list[bytes], data: st.DataObject) -> None:
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads) + b"0\r\n\r\n"
    after = b"HTTP/1.1 200 OK"
    text, body, found = encoded + after, ChunkedBody(), b""
    used = 0
    while not body.done:
        piece = text[used : used + data.draw(st.integers(1, 50))]
        pieces, taken = body.feed(piece)
        found += b"".join(pieces)
        used += taken
    assert (found, used) == (b"".join(payloads), len(encoded))


ANSWERS = [
    ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"),
    ("a length and chunks", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("another encoding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    ("a signed length", b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n"),
    ("another protocol", b"ICY 200 OK\r\n\r\n"),
    ("a bare line feed", b"HTTP/1.1 200 OK\nX: y\r\n\r\n"),
]


@pytest.mark.parametrize("head", [case[1] for case in ANSWERS], ids=[case[0] for case in ANSWERS])
def test_an_engines_answer_is_refused_for(head: bytes) -> None:
    with pytest.raises(BadMessageError):
        response_head(head)
