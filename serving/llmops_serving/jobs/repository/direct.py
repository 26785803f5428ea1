"""Past the page cache: weights are written once, read once, and are larger than memory.

Through the cache every page is found, zeroed and copied, which on a busy machine costs more than hashing it; fsync then
waits for all of it at the end, and what others on the node had cached is gone. File systems that cannot do it (tmpfs,
some network ones) are read and written as usual.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

ALIGNMENT: Final = 4096  # of memory, length and offset: what every disk's logical block divides
CACHED_BYTES: Final = 64 << 10  # smaller files are read through the cache: what is near them is wanted next
BLOCK_BYTES: Final = 4 << 20
BLOCKS: Final = 8  # a disk that others use, too, stops for tens of milliseconds

Memory = NDArray[np.uint8]


def memory(size: int) -> Memory:
    """Memory that begins at a page, in huge pages where the system has them."""
    made = mmap.mmap(-1, _ceiling(max(size, 1)))
    made.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(made, np.uint8)


def read(at: Path, into: Callable[[int], memoryview]) -> memoryview:
    """The whole file, in `into(bytes)`, which begins at a page."""
    descriptor = os.open(at, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        view = into(_ceiling(size))
        got = _read_past_cache(descriptor, view) if size >= CACHED_BYTES else 0
        while got < size and (count := os.preadv(descriptor, [view[got:size]], got)):
            got += count
        return view[:got]
    finally:
        os.close(descriptor)


def _read_past_cache(descriptor: int, view: memoryview) -> int:
    """How much of the file was read that way, in one go: all, or nothing."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        return os.preadv(descriptor, [view], 0)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return 0
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def write(descriptor: int, data: memoryview, start: int) -> None:
    """Write all of `data`, which begins at a page, at `start`, which is a multiple of `ALIGNMENT`."""
    whole = len(data) // ALIGNMENT * ALIGNMENT
    past = _written_past_cache(descriptor, data[:whole], start) if whole else 0
    _write(descriptor, data[past:], start + past)


def _written_past_cache(descriptor: int, data: memoryview, start: int) -> int:
    """How much of it was written that way: all, or what the file system would take of it."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    at = 0
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        while at < len(data) and (count := os.pwrite(descriptor, data[at:], start + at)) >= ALIGNMENT:
            at += count // ALIGNMENT * ALIGNMENT
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return at


def _write(descriptor: int, data: memoryview, start: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, start)
        os.posix_fadvise(descriptor, start, count, os.POSIX_FADV_DONTNEED)  # begin now: less to fsync later
        data, start = data[count:], start + count


class Stream:
    """A file that is written in order, while later bytes of it are being made; a context.

    Only this may write to `descriptor` meanwhile. Errors of earlier writes come out of later calls, and of the end.
    """

    def __init__(self, descriptor: int, size: int, *, start: int) -> None:
        """`start` is a multiple of `ALIGNMENT`, `size` how many bytes follow it."""
        self._descriptor, self._at = descriptor, start
        count = min(BLOCKS, -(-size // BLOCK_BYTES))
        self._bytes = min(BLOCK_BYTES, _ceiling(size))
        self._blocks = deque(memory(self._bytes) for _ in range(count))
        self._filled = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write") if count > 1 else None
        self._waiting: deque[tuple[Memory, Future[None]]] = deque()

    def add(self, data: Memory) -> None:
        """Take over the next bytes; their memory is the caller's again when this returns."""
        while data.size:
            count = min(data.size, self._bytes - self._filled)
            self._blocks[0][self._filled : self._filled + count] = data[:count]
            self._filled += count
            data = data[count:]
            if self._filled == self._bytes:
                self._send()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, problem: object, *_: object) -> None:
        try:
            if problem is None:
                self._send()
                while self._waiting:
                    self._waiting.popleft()[1].result()
        finally:
            if self._pool:
                self._pool.shutdown(cancel_futures=True)

    def _send(self) -> None:
        if not self._filled:
            return
        data = self._blocks[0][: self._filled].data
        if self._pool is None:
            write(self._descriptor, data, self._at)
        else:
            job = self._pool.submit(write, self._descriptor, data, self._at)
            self._waiting.append((self._blocks.popleft(), job))
            if not self._blocks:
                block, job = self._waiting.popleft()
                job.result()
                self._blocks.append(block)
        self._at += self._filled
        self._filled = 0


def _ceiling(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
