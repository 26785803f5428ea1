"""Lines on standard error that say what is being waited for, and for how long."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A child that reports beside its parent counts from the same moment: the monotonic clock is the machine's.
BEGUN_VARIABLE = "LLMOPS_PROGRESS_BEGUN"
_BEGUN = float(os.environ.get(BEGUN_VARIABLE) or time.monotonic())
SHOWN_AFTER_SECONDS = 1.0
REPEATED_EVERY_SECONDS = 15.0


def environment() -> dict[str, str]:
    """Ours, for a child whose lines shall count from the same moment."""
    return {**os.environ, BEGUN_VARIABLE: str(_BEGUN)}


def say(text: str) -> None:
    """One line with the seconds since the program began."""
    print(f"[{time.monotonic() - _BEGUN:6.1f}s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Report a piece of work: at once when it takes over a second, again while it lasts, and when it is done."""
    begun = time.monotonic()
    over = threading.Event()

    def report() -> None:
        patience = SHOWN_AFTER_SECONDS
        while not over.wait(patience):
            say(f"… {what} ({time.monotonic() - begun:.0f} s)")
            patience = REPEATED_EVERY_SECONDS

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        over.set()
        reporter.join()
    if time.monotonic() - begun >= SHOWN_AFTER_SECONDS:
        say(f"✓ {what} ({time.monotonic() - begun:.1f} s)")
