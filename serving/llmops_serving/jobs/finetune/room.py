"""On a CPU, memory that is not there becomes an error: a killed process could not try half the micro-batch."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUP, STATUS = Path("/sys/fs/cgroup"), Path("/proc/self/status")
# The limit, the statistics, and what of them cannot be given back; version 2 first.
FILES = (
    ("memory.max", "memory.stat", ("anon", "shmem")),
    ("memory/memory.limit_in_bytes", "memory/memory.stat", ("total_rss", "total_shmem")),
)
UNLIMITED_BYTES = 1 << 60  # version 1 writes the largest number of pages for "none"
KEPT = 32  # one part of so many stays for page tables and what the kernel counts besides
SIGNS = ("DefaultCPUAllocator", "bad_alloc", "out of memory")


@contextmanager
def bounded(processes: int) -> Iterator[None]:
    """Let an allocation fail where the container's limit would kill; as it was before, afterwards.

    Args:
        processes: How many of this container share what is left, this one included.
    """
    left = left_bytes(CGROUP)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if left is not None:
        mapped = int(re.findall(r"VmData:\s+(\d+) kB", STATUS.read_text(encoding="ascii"))[0]) * 1024
        soft = mapped + left // processes
        resource.setrlimit(resource.RLIMIT_DATA, (soft if before[0] < 0 else min(soft, before[0]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def left_bytes(cgroup: Path) -> int | None:
    """What a container may take besides what it has; `None` where nothing limits it."""
    for limit, statistics, kept in FILES:
        try:
            most = int((cgroup / limit).read_text(encoding="ascii"))
            lines = (cgroup / statistics).read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):  # not this version, or `max`
            continue
        if most >= UNLIMITED_BYTES:
            return None
        has = {name: int(value) for name, value in (line.split() for line in lines)}
        return max(0, most - most // KEPT - sum(has.get(name, 0) for name in kept))
    return None


def lacks(error: BaseException) -> bool:
    """Whether an error says that memory was not there: torch has several ways to."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)
