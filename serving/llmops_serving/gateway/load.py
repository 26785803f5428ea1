"""What each model is asked for, as the operator hears it: the load stream's lines.

The stream is newline-delimited JSON: one line that names the process, a line for every model, then a line per model
that changed, coalesced to `COALESCE_SECONDS`, and a heartbeat every second. `arrivals`, `promptTokens` and
`completionTokens` count since the model's last line on this stream, so that a listener can add them up. A listener that
asks for `?keys=1` also hears, of every API key in use, what each process has given and claimed (`ledger.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

COALESCE_SECONDS = 0.05
HEARTBEAT_SECONDS = 1.0
VERSION = 1
HEARTBEAT = b'{"heartbeat":true}\n'


@dataclass(slots=True)
class Load:
    """Running totals and levels of one model. `last_end` is in Unix seconds, None before the first."""

    key: str
    arrivals: int = 0
    in_flight: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    last_end: float | None = None


def hello(gateway: str, processes: int = 1) -> bytes:
    """The first line; so many processes speak on this stream."""
    return orjson.dumps({"gateway": gateway, "version": VERSION, "processes": processes}) + b"\n"


class LoadStream:
    """One listener's view: what it was told last, and what has changed since."""

    def __init__(self, *, keys: bool = False) -> None:
        """A listener that was told nothing; `keys` is whether it asked for lines about API keys, too."""
        self.keys: dict[str, tuple[int, int, int]] | None = {} if keys else None
        self._notes: list[bytes] = []
        self._told: dict[str, tuple[int, int, int]] = {}
        self._changed: dict[str, Load] = {}
        self.wake = asyncio.Event()

    def touch(self, load: Load) -> None:
        """The model changed."""
        self._changed[load.key] = load
        self.wake.set()

    def note(self, line: bytes) -> None:
        """Say this, too."""
        self._notes.append(line)
        self.wake.set()

    def snapshot(self, loads: Iterable[Load]) -> bytes:
        """A line for every model; counts begin with it."""
        lines = []
        for load in loads:
            self._told[load.key] = (load.arrivals, load.prompt_tokens, load.completion_tokens)
            lines.append(_line(load, 0, 0, 0))
        return b"".join(lines)

    def lines(self) -> bytes:
        """A line for every model that changed since the last call."""
        changed, self._changed = self._changed, {}
        self.wake.clear()
        lines, self._notes = self._notes, []
        for key, load in changed.items():
            arrivals, prompt, completion = self._told.get(key, (0, 0, 0))
            self._told[key] = (load.arrivals, load.prompt_tokens, load.completion_tokens)
            lines.append(
                _line(load, load.arrivals - arrivals, load.prompt_tokens - prompt, load.completion_tokens - completion)
            )
        return b"".join(lines)


def _line(load: Load, arrivals: int, prompt: int, completion: int) -> bytes:
    line: dict[str, Any] = {
        "model": load.key,
        "arrivals": arrivals,
        "inFlight": load.in_flight,
        "waiting": load.waiting,
        "promptTokens": prompt,
        "completionTokens": completion,
        "lastEnd": load.last_end,
    }
    return orjson.dumps(line) + b"\n"
