"""Who asked for what, and what it came to: a line of JSON for every request that had a model, if wanted.

Nothing a client wrote is in it: no prompt, no answer, no header, no key. A key is named by its Secret.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import orjson

_MAX_LINES: Final = 1000


class AuditLog:
    """Lines are collected, and written together at least once a second."""

    __slots__ = ("_lines", "_write")

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """`write` takes whole lines."""
        self._write = write
        self._lines: list[bytes] = []

    def note(
        self, *, model: str, adapter: str, tenant: str, key: str, status: int, seconds: float, tokens: int | None
    ) -> None:
        """A request is over. `tokens` are all it used, None where nobody knows."""
        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "model": model,
            "adapter": adapter,
            "tenant": tenant,
            "key": key,
            "status": status,
            "seconds": round(seconds, 3),
            "tokens": tokens,
        }
        self._lines.append(orjson.dumps({"audit": line}) + b"\n")
        if len(self._lines) >= _MAX_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._write(b"".join(lines))
