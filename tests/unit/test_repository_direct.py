"""Bytes that go past the page cache are the same bytes, whatever their number and wherever they begin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from llmops_serving.jobs.repository import direct

SIZES = [1, 4095, 4096, 4097, direct.CACHED_BYTES + 1, direct.BLOCK_BYTES, 3 * direct.BLOCK_BYTES + 123]


@contextmanager
def opened(at: Path) -> Iterator[int]:
    descriptor = os.open(at, os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def some(size: int) -> direct.Memory:
    return np.random.default_rng(size).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("start", [0, 2 * direct.ALIGNMENT])
@pytest.mark.parametrize("size", SIZES)
def test_a_stream_writes_what_it_is_given(tmp_path: Path, size: int, start: int) -> None:
    wanted, at = some(size), tmp_path / "file"
    with opened(at) as descriptor, direct.Stream(descriptor, size, start=start) as stream:
        for begin in range(0, size, 1_000_003):
            stream.add(wanted[begin : begin + 1_000_003].copy())
    assert at.read_bytes() == bytes(start) + wanted.tobytes()


@pytest.mark.parametrize("size", [0, *SIZES])
def test_a_file_is_read_as_it_is(tmp_path: Path, size: int) -> None:
    at = tmp_path / "file"
    at.write_bytes(some(size).tobytes())
    assert direct.read(at, lambda count: direct.memory(count).data) == at.read_bytes()


def test_an_error_of_the_disk_comes_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"), direct.Stream(descriptor, 9 << 20, start=0) as stream:
            stream.add(some(9 << 20))
    finally:
        os.close(descriptor)
