"""Waiting for what a cluster does in its own time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str, seconds: float = 420) -> T:
    """What `look` returns as soon as it is true, asked less often the longer it takes.

    A look is often a kubectl: at every turn it would take the processor from what is waited for.

    Raises:
        TimeoutError: it was not within these seconds; the message names `what`.
    """
    started = time.monotonic()
    while not (found := look()):
        waited = time.monotonic() - started
        if waited > seconds:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(min(max(waited / 10, 0.05), 1))
    return found
