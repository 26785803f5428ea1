"""What the keys have used: their meters, what is told of them on the load stream, and what other processes tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llmops_serving.gateway.keys import Key, Keyring
from llmops_serving.gateway.limits import Crowd, Meter
from llmops_serving.gateway.load import LoadStream


class Ledger:
    """All meters of one process. `process` names it among those that serve the same keys."""

    def __init__(self, process: str, wall_clock: Callable[[], float]) -> None:
        """Alone, and nobody has a key. `wall_clock` tells Unix seconds."""
        self._wall_clock = wall_clock
        self.process = process
        self.keyring: Keyring | None = None  # None: no key is asked for
        self.crowd = Crowd()
        self._meters: dict[bytes, Meter] = {}
        self._by_name: dict[str, Key] = {}
        self.sums: dict[str, int] = {}  # of this month, from before this process began

    def admit(self, keyring: Keyring, now: float) -> None:
        """Ask for one of these keys from now on; a key that is no longer among them is refused at once."""
        for digest, key in keyring.keys.items():
            if digest in self._meters:
                self._meters[digest].rekey(key, now)
        for digest in [digest for digest in self._meters if digest not in keyring.keys]:
            del self._meters[digest]
        self._by_name = {key.name: key for key in keyring.keys.values()}
        self.keyring = keyring

    def meter(self, key: Key, now: float) -> Meter:
        """What this key has used."""
        found = self._meters.get(key.digest)
        if found is None:
            found = self._meters[key.digest] = Meter(key, now, self.crowd)
            found.turn_month(self._wall_clock())
            found.month_tokens = self.sums.get(key.name, 0)
        return found

    def gather(self, *, processes: int, heard: int, now: float) -> None:
        """So many processes serve the keys, of which so many are heard; both with this one."""
        if (processes, heard) != (self.crowd.processes, self.crowd.heard):
            self.crowd.processes, self.crowd.heard = processes, heard
            for meter in self._meters.values():
                meter.rekey(meter.key, now)

    def heard(self, line: Mapping[str, Any], now: float) -> None:
        """Another process said this of a key."""
        key = self._by_name.get(line["key"])
        if key is not None and line["process"] != self.process and line["month"] == month(self._wall_clock()):
            self.meter(key, now).heard(line["process"], line, now)

    def forget(self, processes: set[str]) -> None:
        """These processes are gone, and what they worked on with them."""
        for meter in self._meters.values():
            for process in processes:
                meter.peers.pop(process, None)

    def recall(self, sums: Mapping[str, int]) -> None:
        """Tokens by key name that somebody who lasts longer has counted for this month; the larger count is right."""
        self.sums = dict(sums)
        for meter in self._meters.values():
            meter.month_tokens = max(meter.month_tokens, sums.get(meter.key.name, 0))

    def tick(self, streams: set[LoadStream], now: float) -> None:
        """Ten times a second: tell the listeners about the keys that are in use."""
        for meter in self._meters.values():
            meter.turn_month(self._wall_clock())
            if meter.tick():
                for stream in streams:
                    if stream.keys is not None:
                        stream.note(self._line(meter, stream.keys, now))

    def snapshot(self, stream: LoadStream, now: float) -> bytes:
        """A line for every key; counts begin with it."""
        if stream.keys is None:
            return b""
        for meter in self._meters.values():
            stream.keys[meter.key.name] = (meter.requests_given, meter.tokens_given, meter.tokens_used)
        return b"".join([self._line(meter, stream.keys, now) for meter in self._meters.values()])

    def _line(self, meter: Meter, told: dict[str, tuple[int, int, int]], now: float) -> bytes:
        """What a listener that was told `told` hears of a key."""
        requests, tokens, used = told.get(meter.key.name, (0, 0, 0))
        told[meter.key.name] = (meter.requests_given, meter.tokens_given, meter.tokens_used)
        line: dict[str, Any] = {
            "key": meter.key.name,
            "tenant": meter.key.tenant,
            "process": self.process,
            "requests": meter.requests_given - requests,
            "tokens": meter.tokens_given - tokens,
            "used": meter.tokens_used - used,
            "inFlight": meter.in_flight,
            "claims": meter.claims,
            "demand": meter.demand,
            "left": meter.left(now),
            "month": month(self._wall_clock()),
            "monthTokens": meter.month_tokens,
        }
        return orjson.dumps(line) + b"\n"


def month(wall: float) -> str:
    """The month of a Unix time, as `2026-11` (UTC)."""
    return time.strftime("%Y-%m", time.gmtime(wall))
