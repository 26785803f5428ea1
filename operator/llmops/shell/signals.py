"""The operator's end of the load stream: what the gateways see, summed up per model.

Every gateway process holds one long response open to the operator and writes a line when something changes. A stream
that breaks or falls silent leaves its share *unknown*: from then on `load` is a lower bound or nothing, never less.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from llmops.judge.load import Load, Meter

log = structlog.get_logger(__name__)

SILENCE_SECONDS = 3.0  # three heartbeats
RECONNECT_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)  # by failed attempts in a row
PROTOCOL_VERSION = 1


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class _Hello(_Line):
    gateway: str
    version: int


class _Counts(_Line):
    """One model's line: what happened since the last one, and the levels from now on."""

    model: str = Field(pattern=r"^[^/]+/[^/]+$", max_length=320)
    arrivals: int = Field(default=0, ge=0)
    in_flight: int = Field(default=0, ge=0)
    waiting: int = Field(default=0, ge=0)
    last_end: float | None = None


class _Usage(_Line):
    """What one process says of an API key; of its tokens this month, all that it knows."""

    key: str = Field(min_length=1, max_length=253)
    month: str = Field(pattern=r"^\d{4}-\d{2}$")
    month_tokens: int = Field(ge=0)


class _Heartbeat(_Line):
    heartbeat: Literal[True]


@dataclass(slots=True)
class _Share:
    """What one gateway last said of one model."""

    in_flight: int = 0
    waiting: int = 0


@dataclass(slots=True)
class _Stream:
    """One gateway process. `live_since` is None until its first complete picture and after every loss."""

    url: str
    heard: bool = False
    task: asyncio.Task[None] | None = None
    live_since: float | None = None
    shares: dict[str, _Share] = field(default_factory=dict)


class Signals:
    """Listens to a changing set of gateways and answers what load a model has.

    Use it in one event loop. `on_change(key)` with key `namespace/name` is called in that loop when a gateway reported
    a change of the model, and for every model known when gateways are lost or heard again; it must not block.
    `on_usage(month, key, tokens)` tells what a gateway knows of an API key's tokens in a month.
    """

    def __init__(
        self,
        on_change: Callable[[str], None],
        *,
        on_usage: Callable[[str, str, int], None] = lambda _month, _key, _tokens: None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._on_change = on_change
        self._on_usage = on_usage
        self._silence_seconds = silence_seconds
        self._streams: dict[str, _Stream] = {}
        self._meters: dict[str, Meter] = {}
        self._session: aiohttp.ClientSession | None = None
        # unix seconds that no adjustment of the system clock can turn back or forth
        self._epoch = time.time() - time.monotonic()

    def update_gateways(self, urls: Collection[str]) -> None:
        """Listen to exactly these load streams (full URLs, one per gateway process) from now on.

        The share of a gateway that is no longer listed is forgotten: its requests have ended with it.
        """
        for url in [url for url in self._streams if url not in urls]:
            self._drop(self._streams.pop(url))
        for url in urls:
            if url not in self._streams:
                stream = self._streams[url] = _Stream(url)
                stream.task = asyncio.create_task(self._listen(stream), name=f"load stream {url}")

    def load(self, key: str) -> Load | None:
        """The load of `namespace/name` now; None when no gateway can be heard.

        While only some can, the answer is `partial`: a lower bound.
        """
        lived = [stream.live_since for stream in self._streams.values() if stream.live_since is not None]
        meter = self._meters.get(key)
        if not any(stream.heard for stream in self._streams.values()):
            return None
        now = self._now()
        partial = len(lived) < len(self._streams)
        if meter is None:
            # every gateway has told all it knows, and this model was not in it: that is a zero somebody vouches for
            meter = self._meters[key] = Meter(max(lived, default=now))
        return meter.load(now, since=max(lived, default=now), partial=partial)

    def forget(self, key: str) -> None:
        """Drop what is remembered of a model that no longer exists."""
        self._meters.pop(key, None)
        for stream in self._streams.values():
            stream.shares.pop(key, None)

    async def close(self) -> None:
        """Stop listening; every stream has been closed when this returns."""
        tasks = [stream.task for stream in self._streams.values() if stream.task is not None]
        self._streams.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _now(self) -> float:
        return self._epoch + time.monotonic()

    async def _listen(self, stream: _Stream) -> None:
        """Read one gateway's stream for as long as the gateway is listed."""
        failures = 0
        while True:
            try:
                await self._read(stream)
                problem = "the gateway ended the stream"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"[:256]
            stream.heard = False
            if stream.live_since is not None:
                failures = 0
                stream.live_since = None
                log.warning("load stream lost: its share of the load is unknown", gateway=stream.url, problem=problem)
                self._wake_all()
            elif failures == len(RECONNECT_SECONDS):
                log.warning("load stream cannot be opened", gateway=stream.url, problem=problem)
            await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
            failures += 1

    async def _read(self, stream: _Stream) -> None:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)  # one connection per gateway, however many gateways there are
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        silence = aiohttp.ClientTimeout(total=None, sock_connect=self._silence_seconds, sock_read=self._silence_seconds)
        async with self._session.get(stream.url, params={"keys": "1"}, timeout=silence) as response:
            response.raise_for_status()
            hello = _Hello.model_validate_json(await response.content.readline())
            if hello.version != PROTOCOL_VERSION:
                raise ValueError(f"load stream version {hello.version}, this operator speaks {PROTOCOL_VERSION}")
            self._forget_shares(stream)
            stream.heard = True
            async for raw in response.content:
                self._take(stream, raw)

    def _take(self, stream: _Stream, raw: bytes) -> None:
        if raw.startswith(b'{"key"'):
            usage = _Usage.model_validate_json(raw)
            self._on_usage(usage.month, usage.key, usage.month_tokens)
            return
        try:
            line = _Counts.model_validate_json(raw)
        except ValidationError:
            _Heartbeat.model_validate_json(raw)  # neither: a ValueError, and the stream counts as lost
            if stream.live_since is None:
                # the lines of every model the gateway knows have come before its first heartbeat
                stream.live_since = self._now()
                self._wake_all()
            return
        now = self._now()
        share = stream.shares.setdefault(line.model, _Share())
        meter = self._meters.get(line.model)
        if meter is None:
            meter = self._meters[line.model] = Meter(now)
        in_flight = meter.in_flight + line.in_flight - share.in_flight
        waiting = meter.waiting + line.waiting - share.waiting
        meter.observe(now, arrivals=line.arrivals, in_flight=in_flight, waiting=waiting, last_end=line.last_end)
        share.in_flight, share.waiting = line.in_flight, line.waiting
        self._on_change(line.model)

    def _drop(self, stream: _Stream) -> None:
        if stream.task is not None:
            stream.task.cancel()
        touched = list(stream.shares)
        self._forget_shares(stream)
        for key in touched:
            self._on_change(key)

    def _forget_shares(self, stream: _Stream) -> None:
        """Take a gateway's requests out of the sums. They ended with it, or it is about to say anew which go on."""
        now = self._now()
        for key, share in stream.shares.items():
            meter = self._meters[key]
            meter.correct(now, in_flight=meter.in_flight - share.in_flight, waiting=meter.waiting - share.waiting)
            if share.in_flight or share.waiting:
                meter.last_end = max(meter.last_end or -math.inf, now)
        stream.shares.clear()

    def _wake_all(self) -> None:
        for key in list(self._meters):
            self._on_change(key)
