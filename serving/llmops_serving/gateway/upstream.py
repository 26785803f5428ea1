"""The leg to the engines: pods, their kept connections, and one request at a time on each of them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from llmops_serving.gateway.affinity import Caching
from llmops_serving.gateway.chunks import ChunkedBody
from llmops_serving.gateway.heads import ResponseHeads
from llmops_serving.gateway.http1 import MAX_HEAD_BYTES, BadMessageError, ResponseHead
from llmops_serving.gateway.route import Failure, ejection_seconds

if TYPE_CHECKING:
    from llmops_serving.gateway.exchange import Exchange

CONNECT_SECONDS: Final = 3.0
WITHOUT_ADAPTER_SECONDS: Final = 5.0  # then it is asked for it again, whatever its record says
IDLE_SECONDS: Final = 4.0  # below uvicorn's keep-alive of 5 s, so that the gateway is the one who closes


class Pod(Caching):
    """One engine pod: its load as this process sees it, its health, its connections."""

    __slots__ = ("adapters", "draining", "failures", "host", "idle", "name", "port", "proven", "usable", "without")

    def __init__(self, host: str, port: int, address: str, name: str) -> None:
        """A pod nobody has called yet."""
        super().__init__(address, name)
        self.host = host
        self.port = port
        self.name = name
        self.failures = 0
        self.draining = False
        self.usable = True
        self.proven = False  # it answered us while the cluster did not call it ready
        self.adapters: frozenset[str] | None = None  # that it provably serves, says its record; None: any
        self.without: dict[str, float] = {}  # those of them that it did not know, and until when that is believed
        self.idle: list[Connection] = []

    def has(self, adapter: str) -> bool:
        """Whether it can be asked for this adapter; empty for the model itself."""
        return not adapter or self.adapters is None or (adapter in self.adapters and adapter not in self.without)

    def recorded(self, adapters: frozenset[str] | None) -> None:
        """Its record says this now; one that has changed is believed again."""
        if adapters != self.adapters:
            self.adapters = adapters
            self.without.clear()

    def lacks(self, adapter: str, now: float) -> None:
        """It did not know the adapter: its engine has started again, and its record is about the life before."""
        self.without[adapter] = now + WITHOUT_ADAPTER_SECONDS

    def believe(self, now: float) -> None:
        """Forget what was found out too long ago."""
        self.without = {adapter: until for adapter, until in self.without.items() if until > now}

    def succeeded(self) -> None:
        """The pod answered: it is trusted again."""
        if self.failures:
            self.failures = 0
            self.ejected_until = 0.0
            self.unreachable = False

    def stumbled(self, now: float, *, reached: bool = True) -> None:
        """The pod did not answer: it gets no requests for a while that grows with each failure in a row."""
        self.failures += 1
        self.ejected_until = now + ejection_seconds(self.failures)
        self.unreachable = not reached

    def call(self, caller: Exchange, request: list[bytes], loop: asyncio.AbstractEventLoop) -> Call:
        """Send `request` on a kept connection, or on a new one. The pod counts it until it is answered or failed."""
        self.in_flight += 1
        call = Call(self, caller, request)
        while self.idle:
            connection = self.idle.pop()
            if connection.usable:
                connection.begin(call)
                return call
        call.connecting = loop.create_task(_connect(self, call, loop))
        return call

    def drain(self) -> None:
        """Take no more requests; those under way go on."""
        self.draining = True
        self.distrust_idle()

    def distrust_idle(self) -> None:
        """Close all kept connections: one was found dead, and the others come from before the same restart."""
        while self.idle:
            self.idle.pop().close()

    def close_idle(self, before: float) -> None:
        """Close the connections that nobody used since `before` on the loop's clock."""
        stale = [connection for connection in self.idle if connection.idle_since < before]
        for connection in stale:
            self.idle.remove(connection)
            connection.close()


class Call:
    """One request at one pod. Exactly one of the caller's `answered` and `failed` ends it; nothing follows it."""

    __slots__ = ("caller", "connecting", "connection", "pod", "request", "reused")

    def __init__(self, pod: Pod, caller: Exchange, request: list[bytes]) -> None:
        """`request` is the whole message, in as few pieces as it has."""
        self.pod = pod
        self.caller: Exchange | None = caller
        self.request = request
        self.connection: Connection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.reused = False

    def cancel(self) -> None:
        """Forget the answer: the client left or gave up. The engine sees the connection close and stops working."""
        if self._leave() is None:
            return
        if self.connecting is not None:
            self.connecting.cancel()
        if self.connection is not None:
            self.connection.abort()

    def pause(self) -> None:
        """Stop reading the answer until `resume`."""
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        """Read on."""
        if self.connection is not None:
            self.connection.resume()

    def answered(self) -> None:
        """The whole answer was passed on."""
        caller = self._leave()
        if caller is not None:
            caller.answered()

    def failed(self, failure: Failure) -> None:
        """The answer will not come, or not all of it."""
        caller = self._leave()
        if caller is not None:
            caller.failed(failure)

    def _leave(self) -> Exchange | None:
        caller, self.caller = self.caller, None
        if caller is not None:
            self.pod.in_flight -= 1
        return caller


async def _connect(pod: Pod, call: Call, loop: asyncio.AbstractEventLoop) -> None:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            # uvloop asks a protocol for its methods, not for its ancestry
            _, connection = await loop.create_connection(lambda: Connection(pod), pod.host, pod.port)  # type: ignore[type-var]
    except OSError:  # TimeoutError is one
        call.failed(Failure.CONNECT)
        return
    call.connecting = None
    connection.begin(call)


class Connection:
    """A connection to one pod, as an `asyncio.Protocol`; carries one call at a time and is kept when it is in step."""

    __slots__ = (
        "_buffer", "_call", "_chunks", "_head", "_heads", "_left", "_paused", "_pod", "_transport", "idle_since",
    )  # fmt: skip

    def __init__(self, pod: Pod) -> None:
        """Not connected yet."""
        self._pod = pod
        self._transport: asyncio.Transport | None = None
        self._call: Call | None = None
        self._buffer = b""
        self._heads = ResponseHeads()
        self._head: ResponseHead | None = None
        self._chunks: ChunkedBody | None = None
        self._left = -1
        self._paused = False
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, call: Call) -> None:
        """Send the call's request."""
        call.reused = self.idle_since > 0
        call.connection = self
        self._call = call
        if self._transport is None or call.caller is None:
            self.abort()
            call.failed(Failure.CONNECT)
            return
        for part in call.request:  # uvloop sends what was written in one turn of its loop with one system call
            self._transport.write(part)

    def pause(self) -> None:
        """Stop reading: the client is slower than the engine."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Close after what was written is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now, and forget the call."""
        self._call = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The pod accepted."""
        self._transport = transport  # type: ignore[assignment]  # a stream transport, as create_connection promises

    def eof_received(self) -> None:
        """The engine ended its side: the transport closes, and `connection_lost` tells what that means."""

    def pause_writing(self) -> None:
        """The engine reads slowly; its request is in memory anyway."""

    def resume_writing(self) -> None:
        """The engine has caught up."""

    def data_received(self, data: bytes) -> None:
        """Bytes from the engine."""
        call = self._call
        if call is None or call.caller is None:
            self.abort()  # an answer to nothing: this connection is out of step
            return
        try:
            if self._head is None:
                self._read_head(call, data)
            else:
                self._read_body(call, data)
        except BadMessageError:
            self.abort()
            call.failed(Failure.GARBAGE)

    def _read_head(self, call: Call, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        again = self._heads.again(data)
        if again is not None:
            head, end = again, self._heads.end
        else:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                if len(data) > MAX_HEAD_BYTES:
                    raise BadMessageError(502, "The engine's head is too long.")
                self._buffer = data
                return
            head = self._heads.read(data[:end])
        self._buffer = b""
        self._head = head
        if head.status < 200:
            raise BadMessageError(502, "The engine sent an answer that is none.")
        self._left = -1 if head.length is None else head.length
        self._chunks = ChunkedBody() if head.chunked else None
        caller = call.caller
        assert caller is not None  # noqa: S101  data_received has looked
        caller.head(head)
        if call.caller is None:  # the head was refused, and the call failed or cancelled with it
            return
        if self._left == 0:
            self._finish(call, clean=end == len(data))
        elif end < len(data):
            self._read_body(call, data[end:])
        else:
            caller.flush()

    def _read_body(self, call: Call, data: bytes) -> None:
        caller = call.caller
        if caller is None:
            return
        chunks = self._chunks
        if chunks is not None:
            if chunks.whole(data):
                caller.data(data, None, last=chunks.done)
                clean = True
            else:
                pieces, used = chunks.feed(data)
                clean = used == len(data)
                caller.data(data if clean else data[:used], pieces, last=chunks.done)
            if chunks.done:
                self._finish(call, clean=clean)
            return
        left = self._left
        if left < 0:
            caller.data(data, [data], last=False)
            return
        clean = len(data) <= left
        data = data if clean else data[:left]
        self._left = left - len(data)
        caller.data(data, [data], last=False)
        if not self._left:
            self._finish(call, clean=clean)

    def _finish(self, call: Call, *, clean: bool) -> None:
        head, self._head = self._head, None
        self._chunks = None
        if call.caller is None:
            return
        self._call = None
        transport = self._transport
        keep = clean and head is not None and head.reusable and not self._pod.draining
        if transport is not None:
            self.resume()
            if keep and transport.get_write_buffer_size() == 0:
                self.idle_since = time.monotonic()
                self._pod.idle.append(self)
            else:
                transport.close()
        call.answered()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended; for an answer of unknown length that is its regular end."""
        call, self._call = self._call, None
        self._transport = None
        if call is None:
            if self in self._pod.idle:
                self._pod.idle.remove(self)
            return
        head = self._head
        if head is None:
            stale = call.reused and not self._buffer
            if stale:
                self._pod.distrust_idle()
            call.failed(Failure.STALE if stale else Failure.LOST)
        elif exc is None and self._left < 0 and self._chunks is None:
            call.answered()
        else:
            call.failed(Failure.LOST)
