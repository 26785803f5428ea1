"""What can go wrong with the watches: each switch is set from a test's thread and read by the proxy's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web

from tests.faultproxy.calls import Call
from tests.faultproxy.faults import refusal


class Stream:
    """One open watch."""

    def __init__(self, call: Call, response: web.StreamResponse, transport: asyncio.Transport | None) -> None:
        self.call, self._response, self._transport = call, response, transport
        self.silent = False

    async def relay(self, line: bytes, *, times: int = 1) -> None:
        if not self.silent:
            for _ in range(times):
                await self._response.write(line)

    async def fail(self, code: int, reason: str) -> None:
        """An ERROR in the stream, as the API server sends it when it cannot go on."""
        await self.relay(b'{"type":"ERROR","object":' + refusal(code, reason) + b"}\n")

    def cut(self) -> None:
        if self._transport:
            self._transport.abort()


class Watches:
    """All watches of a proxy, and the faults that befall them.

    Attributes:
        refuse: A status that every new watch is answered with; None lets them through.
        unanswered: Let every new watch wait for an answer that does not come: a connection that is open on one side.
        times: How often each event is delivered.
        old_lists: Answer every LIST with what it was answered the first time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.streams: set[Stream] = set()
        self.refuse: int | None = None
        self.unanswered = False
        self.times = 1
        self.old_lists = False
        self.opened = 0
        self._held: dict[str, asyncio.Event] = {}

    def cut(self, resources: Iterable[str] = (), *, source: str = "") -> int:
        """Reset the connection of every open watch, or of those of some kinds or one operator; how many there were."""
        return self._each(lambda stream: stream.cut(), resources, source)

    def silence(self) -> int:
        """Let every open watch fall silent for ever, its connection open: a firewall that forgot it."""

        def silence(stream: Stream) -> None:
            stream.silent = True

        return self._each(silence)

    def fail(self, code: int, reason: str) -> int:
        """Send an ERROR into every open watch."""

        def fail(stream: Stream) -> None:
            task = self._loop.create_task(stream.fail(code, reason))
            task.add_done_callback(lambda done: done.exception())

        return self._each(fail)

    def hold(self, resources: Iterable[str]) -> None:
        """Keep the events of these kinds back, in order, until they are released: a stale cache."""
        for resource in resources:
            self._held[resource] = asyncio.Event()

    def release(self) -> None:
        """Deliver what was kept back."""
        held, self._held = self._held, {}
        for event in held.values():
            self._loop.call_soon_threadsafe(event.set)

    async def may_pass(self, resource: str) -> None:
        if event := self._held.get(resource):
            await event.wait()

    def _each(self, act: Callable[[Stream], None], resources: Iterable[str] = (), source: str = "") -> int:
        streams = [
            stream
            for stream in list(self.streams)
            if (not resources or stream.call.resource in resources) and source in ("", stream.call.source)
        ]
        for stream in streams:
            self._loop.call_soon_threadsafe(act, stream)
        return len(streams)
