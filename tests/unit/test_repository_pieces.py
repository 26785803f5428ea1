from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops_serving.jobs.repository.errors import Unsafe
from llmops_serving.jobs.repository.pieces import (
    CHUNK_LEAST_BYTES,
    JOIN_BYTES,
    PIECE_BYTES,
    content_pieces,
    safetensors_pieces,
    tensors,
)


def safetensors(sizes: list[tuple[str, int]]) -> bytes:
    header, offset = {}, 0
    for number, (dtype, size) in enumerate(sizes):
        header[f"t{number}"] = {"dtype": dtype, "shape": [size // 2], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(offset)


def test_tensors_are_cut_at_their_bounds() -> None:
    big, small = PIECE_BYTES + 100, 1000
    data = safetensors([("BF16", big), ("F16", small), ("F16", small), ("BF16", JOIN_BYTES), ("BF16", 0)])
    pieces = safetensors_pieces(io.BytesIO(data), len(data))
    assert [(piece.length, piece.width, piece.slot) for piece in pieces[1:]] == [
        (PIECE_BYTES, 2, f"BF16 t0 @0+{PIECE_BYTES}"),
        (100, 2, f"BF16 t0 @{PIECE_BYTES}+100"),
        (2 * small, 2, "F16 t1 +1 to t2 @0+2000"),
        (JOIN_BYTES, 2, f"BF16 t3 @0+{JOIN_BYTES}"),
    ]
    assert pieces[0].start == 0
    assert all(piece.start + piece.length == after.start for piece, after in itertools.pairwise(pieces))


@pytest.mark.parametrize(
    ("offsets", "shape", "dtype"),
    [
        pytest.param([[0, 8], [4, 12]], [4], "F16", id="overlapping tensors"),
        pytest.param([[0, 8], [16, 24]], [4], "F16", id="a hole"),
        pytest.param([[0, 8], [8, 1 << 40]], [4], "F16", id="past the end"),
        pytest.param([[-8, 0], [0, 8]], [4], "F16", id="a negative offset"),
        pytest.param([[0, 8], [8, 16]], [5], "F16", id="a shape that needs more bytes"),
        pytest.param([[0, 8], [8, 16]], [-2, -2], "F16", id="a negative shape"),
        pytest.param([[0, 8], ["x", 16]], [4], "F16", id="no number"),
    ],
)
def test_headers_that_lie_are_refused(offsets: list[list[object]], shape: list[int], dtype: str) -> None:
    header = {f"t{at}": {"dtype": dtype, "shape": shape, "data_offsets": pair} for at, pair in enumerate(offsets)}
    with pytest.raises(Unsafe):
        tensors(header, data_start=100, file_bytes=116)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 20, id="a header longer than the file"),
        pytest.param((2).to_bytes(8, "little") + b"[]", id="a list"),
        pytest.param((3).to_bytes(8, "little") + b"{{{", id="no JSON"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(data: bytes) -> None:
    with pytest.raises(Unsafe):
        safetensors_pieces(io.BytesIO(data), len(data))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3 << 20), st.integers(0, 9))
def test_content_cuts_cover_every_byte_once(size: int, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(size)
    pieces = list(content_pieces(io.BytesIO(data), size))
    assert [piece.start for piece in pieces] == [0, *np.cumsum([piece.length for piece in pieces])[:-1]][: len(pieces)]
    assert sum(piece.length for piece in pieces) == size
    assert all(CHUNK_LEAST_BYTES <= piece.length <= PIECE_BYTES for piece in pieces[:-1])


def test_bytes_inserted_in_front_move_the_cuts_along() -> None:
    data = np.random.default_rng(0).bytes(12 << 20)
    shifted = b"something new" + data

    def chunks(whole: bytes) -> set[bytes]:
        return {
            whole[piece.start : piece.start + piece.length] for piece in content_pieces(io.BytesIO(whole), len(whole))
        }

    before, after = chunks(data), chunks(shifted)
    assert sum(map(len, before & after)) > 0.7 * len(data)
