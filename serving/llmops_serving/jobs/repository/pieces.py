"""Where a file is cut: at tensor bounds for safetensors, by content for everything else.

A fine-tune has its base's tensor names, types and shapes, so that cutting at tensors lines the two up; a cut by
content finds what moved inside other files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from llmops_serving.jobs.repository.errors import Unsafe

PIECE_BYTES: Final = 8 << 20  # the most that is held at once per thread; a larger tensor becomes several pieces
JOIN_BYTES: Final = 2 << 20  # neighbours of one type are joined up to this: an adapter has hundreds of tiny tensors
HEADER_LIMIT_BYTES: Final = 100 << 20  # the limit of the safetensors library
WIDTHS: Final[Mapping[str, int]] = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip

CHUNK_LEAST_BYTES: Final = 512 << 10
CHUNK_MASK: Final = np.uint32(0xFFFFF000)  # 20 bits: a cut every MiB on average
GEAR_WINDOW: Final = 32


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes of a file from `start`. `slot` says what they are, equal across models of one architecture."""

    start: int
    length: int
    width: int = 1
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # from the beginning of the file
    end: int


def tensors(header: Mapping[str, Any], *, data_start: int, file_bytes: int) -> list[Tensor]:
    """The tensors of a parsed safetensors header in file order.

    Raises:
        Unsafe: the header does not describe exactly the bytes of the file: offsets overlap, leave a hole, end past
            the file, or contradict type and shape.
    """
    found = []
    try:
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                shape = tuple(int(size) for size in entry["shape"])
                found.append(Tensor(name, str(entry["dtype"]), shape, data_start + int(begin), data_start + int(end)))
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise Unsafe(f"not a safetensors header: {problem!r}") from problem
    found.sort(key=lambda tensor: (tensor.start, tensor.end))
    at = data_start
    for tensor in found:
        width = WIDTHS.get(tensor.dtype)
        size = math.prod(tensor.shape) * width if width else tensor.end - tensor.start
        if tensor.start != at or tensor.end - tensor.start != size or any(side < 0 for side in tensor.shape):
            raise Unsafe(f"safetensors header: {tensor.name!r} does not lie where it says")
        at = tensor.end
    if at != file_bytes:
        raise Unsafe(f"safetensors header: describes {at} bytes of {file_bytes}")
    return found


def header_of(file: BinaryIO, file_bytes: int) -> tuple[dict[str, Any], int]:
    """The safetensors header and where the data begin."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if file_bytes < 8 or length > min(HEADER_LIMIT_BYTES, file_bytes - 8):
        raise Unsafe("not a safetensors file: its header is longer than the file")
    try:
        header = json.loads(file.read(length))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as problem:
        raise Unsafe("not a safetensors file: its header is no JSON") from problem
    if not isinstance(header, dict):
        raise Unsafe("not a safetensors file: its header is no object")
    return header, 8 + length


def safetensors_pieces(file: BinaryIO, file_bytes: int) -> list[Piece]:
    """The cuts of a safetensors file; covers every byte once, in order."""
    header, data_start = header_of(file, file_bytes)
    cuts = list(_spans(0, data_start, width=1, label=""))
    run: list[Tensor] = []
    for tensor in tensors(header, data_start=data_start, file_bytes=file_bytes):
        if tensor.start == tensor.end:
            continue
        joins = run and run[0].dtype == tensor.dtype and tensor.end - run[0].start <= JOIN_BYTES
        if run and not joins:
            cuts += _run_pieces(run)
            run = []
        run.append(tensor)
    return cuts + (_run_pieces(run) if run else [])


def _run_pieces(run: list[Tensor]) -> list[Piece]:
    first, last = run[0], run[-1]
    label = f"{first.dtype} {first.name}" + (f" +{len(run) - 1} to {last.name}" if len(run) > 1 else "")
    return list(_spans(first.start, last.end, width=WIDTHS.get(first.dtype, 1), label=label))


def _spans(start: int, end: int, *, width: int, label: str) -> Iterator[Piece]:
    for at in range(start, end, PIECE_BYTES):
        length = min(PIECE_BYTES, end - at)
        yield Piece(at, length, width, f"{label} @{at - start}+{length}" if label else "")


def content_pieces(file: BinaryIO, file_bytes: int) -> Iterator[Piece]:
    """Content-defined cuts of any file: a gear hash over the last 32 bytes, 0.5 to 8 MiB, about 1.5 MiB on average."""
    start = 0
    while start < file_bytes:
        file.seek(start)
        window = file.read(PIECE_BYTES)
        if not window:
            return  # the file shrank; the reader of the piece notices
        length = len(window) if len(window) <= CHUNK_LEAST_BYTES else _cut(np.frombuffer(window, np.uint8))
        yield Piece(start, length)
        start += length


def _cut(window: NDArray[np.uint8]) -> int:
    """The length of the first chunk of `window`."""
    step = 1 << 20
    for begin in range(CHUNK_LEAST_BYTES, window.size, step):
        hashes = _gear(window[begin - GEAR_WINDOW : min(begin + step, window.size)])[GEAR_WINDOW:]
        hits = np.flatnonzero((hashes & CHUNK_MASK) == 0)
        if hits.size:
            return begin + int(hits[0]) + 1
    return window.size


def _gear(data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """h[i] = sum over k < 32 of GEAR[data[i-k]] << k, by doubling: five vector steps instead of a loop per byte."""
    hashes = GEAR[data]
    span = 1
    while span < GEAR_WINDOW:
        shifted = hashes[:-span] << np.uint32(span)
        hashes[span:] += shifted
        span *= 2
    return hashes


def _gear_table() -> NDArray[np.uint32]:
    """256 fixed words: cuts need not be secret, only equal for all writers (splitmix64, seed 1)."""
    words, state = [], 1
    for _ in range(256):
        state = (state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        words.append((mixed ^ (mixed >> 31)) & 0xFFFFFFFF)
    return np.array(words, np.uint32)


GEAR: Final = _gear_table()
