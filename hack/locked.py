"""One at a time: a lock that a killed process gives back by itself."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from hack.cluster.progress import step


@contextmanager
def locked(file: Path, *, waiting_for: str = "") -> Iterator[None]:
    """Hold the lock on this file; whoever comes second waits, is told for what, and finds the work done."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        with step(waiting_for) if waiting_for else nullcontext():
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
