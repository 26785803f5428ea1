"""Importing a library as large as torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy() -> Iterator[None]:
    """Import inside this: what modules make stays for good, and looking through it again and again takes a second."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
