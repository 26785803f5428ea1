"""How a piece of a file becomes fewer bytes, and back: xor with a base, split into byte planes, zstd per plane.

Floating-point weights compress badly as they stand because every second byte (of bf16) is noise. Splitting puts the
sign-and-exponent bytes, whose entropy is 2 to 3 bits, next to each other; xor with the base of a fine-tune turns what
did not change into zeros. Each plane is stored as it is when zstd does not help, so that the one layout below is all
of raw, zstd, split+zstd and xor+split+zstd:

    u8 flags (bit 0: xor with the base) | u8 width | u32 plain length | width x (u8 method, u32 length) | planes

Little-endian; method 0 is raw, 1 is zstd. Plane k holds the bytes k, k+width, k+2*width, ...
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from llmops_serving.jobs.repository.errors import Damaged
from llmops_serving.jobs.repository.pieces import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

Bytes = NDArray[np.uint8]

RAW: Final = 0
ZSTD: Final = 1
XOR_FLAG: Final = 1
WIDTHS: Final = (1, 2, 4, 8)
HEAD: Final = struct.Struct("<BBI")
PLANE: Final = struct.Struct("<BI")
PLAIN_LIMIT_BYTES: Final = 2 * PIECE_BYTES
STRIP_BYTES: Final = 16 << 10  # one sample; four of them speak for a piece
STRIPS: Final = 4
WORTH: Final = 0.98  # a plane that shrinks less than this is left alone: reading it back is then a copy

_thread = threading.local()


@dataclass(frozen=True, slots=True)
class Guess:
    """How a piece would best be stored, judged from samples. `ratio` is stored over plain bytes."""

    ratio: float
    methods: tuple[int, ...]


def guess(plain: Bytes, *, width: int, xored: bool = False) -> Guess:
    """Compress four strips of every plane and extrapolate; an exact answer for pieces up to 64 KiB."""
    methods = []
    total = 0.0
    strips = _strips(plain, width)
    for number in range(width):
        plane = np.ascontiguousarray(strips[number::width])
        ratio = len(_compressor(width, xored=xored).compress(plane.data)) / max(1, plane.size)
        methods.append(ZSTD if ratio < WORTH else RAW)
        total += min(ratio, 1.0)
    return Guess(total / width, tuple(methods))


def encode(plain: Bytes, *, width: int, methods: Sequence[int], xored: bool) -> memoryview:
    """The stored form of `plain`, which the caller has combined with its base already when `xored`.

    The bytes lie in memory of this thread's own and hold until its next call: fresh memory for every piece would cost
    more in page faults than the work itself.
    """
    body = _buffer("body_bytes", HEAD.size + 8 * PLANE.size + max(plain.size, PIECE_BYTES))
    scratch = _buffer("plane_bytes", max(plain.size, PIECE_BYTES) // width)
    size = plain.size // width
    HEAD.pack_into(body.data, 0, XOR_FLAG if xored else 0, width, plain.size)
    at = HEAD.size + PLANE.size * width
    for number, method in enumerate(methods):
        plane = plain[number::width]
        length = size
        if method == ZSTD:
            np.copyto(scratch[:size], plane)
            packed = _compressor(width, xored=xored).compress(scratch[:size].data)
            length = min(size, len(packed))  # the sample may have promised too much
            if length < size:
                body[at : at + length] = np.frombuffer(packed, np.uint8)
        if length == size:
            np.copyto(body[at : at + size], plane)
        PLANE.pack_into(body.data, HEAD.size + PLANE.size * number, ZSTD if length < size else RAW, length)
        at += length
    return body[:at].data


def fresh(size: int) -> Bytes:
    """Memory of the caller's own."""
    return np.empty(size, np.uint8)


def base_memory(size: int) -> Bytes:
    """Memory of this thread for a base, which holds until its next one: depth is one."""
    return _buffer("base_bytes", max(size, PIECE_BYTES))[:size]


def decode(stored: Buffer, base: Bytes | None, memory: Callable[[int], Bytes] = fresh) -> Bytes:
    """The plain bytes, in `memory(bytes)`, writable and the caller's own.

    Raises:
        Damaged: `stored` is not what `encode` writes, or its base is absent or of another length.
    """
    view = memoryview(stored)
    try:
        flags, width, length = HEAD.unpack_from(view)
        entries = [PLANE.unpack_from(view, HEAD.size + PLANE.size * plane) for plane in range(width)]
    except struct.error as problem:
        raise Damaged("the blob's header is cut") from problem
    at = HEAD.size + PLANE.size * width
    odd = width not in WIDTHS or length > PLAIN_LIMIT_BYTES or length % width
    if odd or at + sum(size for _, size in entries) != len(view):
        raise Damaged("the blob's header contradicts its length")
    plain = memory(length)
    planes = []
    for number, (method, size) in enumerate(entries):
        planes.append(_unpacked(view[at : at + size], method, length // width, number))
        at += size
    _joined(planes, plain)
    if flags & XOR_FLAG:
        if base is None or base.size != plain.size:
            raise Damaged("the blob needs a base of the same length")
        np.bitwise_xor(plain, base, out=plain)
    return plain


def xor(plain: Bytes, base: Bytes) -> Bytes:
    return np.bitwise_xor(plain, base)


def _joined(planes: Sequence[Bytes], plain: Bytes) -> None:
    """Put the planes together; two of them, which most models have, as words instead of every other byte."""
    if len(planes) != 2:
        for number, plane in enumerate(planes):
            np.copyto(plain[number :: len(planes)], plane)
        return
    words = plain.view("<u2")
    np.copyto(words, planes[1])
    np.left_shift(words, 8, out=words)
    np.bitwise_or(words, planes[0], out=words)


def _unpacked(body: memoryview, method: int, length: int, number: int) -> Bytes:
    """Plane `number` from its stored form, in memory of this thread that holds until its next blob."""
    if method == RAW and len(body) == length:
        return np.frombuffer(body, np.uint8)
    if method != ZSTD:
        raise Damaged("a plane of the blob has the wrong length")
    # One byte more than the plane: what decompresses to more is seen, and never held.
    scratch = _buffer(f"plane_{number}", length + 1)
    got = 0
    try:
        with _decompressor().stream_reader(body, read_across_frames=False) as reader:
            while got <= length and (count := reader.readinto(scratch[got:].data)):
                got += count
    except zstandard.ZstdError as problem:
        raise Damaged("a plane of the blob does not decompress") from problem
    if got != length:
        raise Damaged("a plane of the blob has the wrong length")
    return scratch[:length]


def _buffer(use: str, size: int) -> Bytes:
    """Memory of this thread for one use."""
    made: Bytes | None = getattr(_thread, use, None)
    if made is None or made.size < size:
        made = np.empty(size, np.uint8)
        setattr(_thread, use, made)
    return made[:size]


def _strips(plain: Bytes, width: int) -> Bytes:
    if plain.size <= STRIPS * STRIP_BYTES:
        return plain
    step = (plain.size - STRIP_BYTES) // (STRIPS - 1) // width * width
    return np.concatenate([plain[at : at + STRIP_BYTES] for at in range(0, STRIPS * step, step)])


def _compressor(width: int, *, xored: bool) -> zstandard.ZstdCompressor:
    """One per thread and kind: they are not thread-safe, and making one costs more than a small piece.

    A plane of weights has no repetition, only skewed bytes: a long minimal match and the smallest table keep zstd from
    finding chance matches, which cost more to write than they save (3 times level 1's speed, and 8 % smaller). The
    zeros in a difference do repeat, and a larger table goes through them faster. Text gets zstd's usual level.
    """
    kind = "text" if width == 1 else "difference" if xored else "plane"
    made: zstandard.ZstdCompressor | None = getattr(_thread, kind, None)
    if made is None:
        if kind == "text":
            made = zstandard.ZstdCompressor(level=3)
        else:
            table = 12 if xored else 6
            parameters = zstandard.ZstdCompressionParameters(
                strategy=zstandard.STRATEGY_FAST,
                min_match=7,
                hash_log=table,
                chain_log=table,
                window_log=17,
                search_log=1,
            )
            made = zstandard.ZstdCompressor(compression_params=parameters)
        setattr(_thread, kind, made)
    return made


def _decompressor() -> zstandard.ZstdDecompressor:
    made: zstandard.ZstdDecompressor | None = getattr(_thread, "decompressor", None)
    if made is None:
        made = _thread.decompressor = zstandard.ZstdDecompressor()
    return made
