"""What a container may still take, as the two versions of cgroups say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops_serving.jobs.finetune import room

GIB = 1 << 30
STAT2 = f"anon {GIB}\nfile {5 * GIB}\nshmem {GIB}\n"
STAT1 = f"rss 1\ntotal_rss {GIB}\ntotal_cache {5 * GIB}\ntotal_shmem {GIB}\n"
CASES: list[tuple[str, dict[str, str], int | None]] = [
    ("version 2", {"memory.max": f"{8 * GIB}\n", "memory.stat": STAT2}, 6 * GIB - GIB // 4),
    ("version 2 without a limit", {"memory.max": "max\n", "memory.stat": STAT2}, None),
    (
        "version 1",
        {"memory/memory.limit_in_bytes": f"{8 * GIB}\n", "memory/memory.stat": STAT1},
        6 * GIB - GIB // 4,
    ),
    (
        "version 1 without a limit",
        {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.stat": STAT1},
        None,
    ),
    ("nothing left", {"memory.max": f"{GIB}\n", "memory.stat": STAT2}, 0),
    ("no cgroups", {}, None),
]


@pytest.mark.parametrize(("files", "left"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_left_is_the_limit_less_what_cannot_be_given_back(
    tmp_path: Path, files: dict[str, str], left: int | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert room.left_bytes(tmp_path) == left


LACKS = [
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
]


def test_memory_that_was_not_there_is_told_from_other_errors() -> None:
    assert all(map(room.lacks, LACKS))
    assert not room.lacks(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
