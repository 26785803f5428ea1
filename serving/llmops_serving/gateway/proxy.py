"""The leg to the clients: read a request to its end, decide, hand it over; then the next one on the same connection."""

from __future__ import annotations

import asyncio
from typing import Final

from mypy_extensions import mypyc_attr

from llmops_serving.gateway import answers, keys, limits, peek, route
from llmops_serving.gateway.chunks import ChunkedBody
from llmops_serving.gateway.exchange import Exchange
from llmops_serving.gateway.gateway import Gateway
from llmops_serving.gateway.heads import RequestHeads
from llmops_serving.gateway.http1 import MAX_HEAD_BYTES, BadMessageError, RequestHead
from llmops_serving.gateway.keys import Key, Owner
from llmops_serving.gateway.lane import prefix_of
from llmops_serving.gateway.limits import Grant
from llmops_serving.gateway.route import Refuse
from llmops_serving.gateway.table import Target
from llmops_serving.gateway.trace import Trace

_MAX_PIPELINED: Final = 64 * 1024
_LINGER_SECONDS: Final = 2.0
_ONE_PIECE_BYTES: Final = 16 * 1024
_TOO_LARGE: Final = Refuse(413, "body_too_large", "The request body is too large.")
_TOO_SLOW: Final = Refuse(408, "request_timeout", "The request was not complete in time.")
_FULL: Final = Refuse(
    503, "overloaded", "The gateway holds as many request bodies as it can.", "server_error", retry_after=1
)
_NO_POST: Final = Refuse(405, "method_not_allowed", "This path takes POST only.")
_OPEN_PATHS: Final = (b"/healthz", b"/readyz")
_NO_GET: Final = Refuse(405, "method_not_allowed", "This path takes GET only.")


class _Admitted:
    """A request whose head was accepted; `path` is one of the engine's, `operation` what the conventions call it."""

    __slots__ = ("head", "key", "operation", "path")

    def __init__(self, head: RequestHead, path: bytes, operation: str, key: Key | None) -> None:
        self.head = head
        self.path = path
        self.operation = operation
        self.key = key


@mypyc_attr(allow_interpreted_subclasses=True)  # the fuzzer listens in on what was read
class ClientConnection:
    """One client connection, as an `asyncio.Protocol`. Requests on it are answered one after the other, in order."""

    __slots__ = (
        "_admitted", "_buffer", "_chunks", "_deadline", "_exchange", "_gateway", "_heads", "_keep_alive",
        "_left", "_lingering", "_owner", "_parts", "_paused_at", "_reading_paused", "_size", "_transport",
    )  # fmt: skip

    def __init__(self, gateway: Gateway) -> None:
        """Not connected yet."""
        self._gateway = gateway
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._heads = RequestHeads()
        self._owner = Owner()
        self._exchange: Exchange | None = None
        self._admitted: _Admitted | None = None  # while its body is read
        self._chunks: ChunkedBody | None = None
        self._parts: list[bytes] = []
        self._left = 0
        self._size = 0
        self._keep_alive = True
        self._lingering = False
        self._reading_paused = False
        self._deadline = 0.0
        self._paused_at = 0.0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = transport  # type: ignore[assignment]  # a stream transport, as create_server promises
        self._deadline = self._now() + self._gateway.options.idle_seconds
        self._gateway.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  both ends look the same from here
        """The client is gone; whatever worked for it stops."""
        self._transport = None
        self._gateway.connections.discard(self)
        self.body_sent()
        self._buffer = b""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._lingering:
            return
        if self._admitted is not None:
            if not self._read_body(data):
                return
        else:
            self._buffer = self._buffer + data if self._buffer else data
        if self._exchange is None:
            self._advance()
        elif len(self._buffer) > _MAX_PIPELINED and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The client ended its side: the transport closes, and nobody is there for an answer."""

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._paused_at = self._now()
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._paused_at = 0.0
        if self._exchange is not None:
            self._exchange.resume()

    # Reading

    def _advance(self) -> None:
        """Take requests out of the buffer until one has to be waited for."""
        while self._buffer and self._exchange is None and self._admitted is None and not self._lingering:
            data = self._buffer
            again = self._heads.again(data)
            if again is not None:
                self._buffer = data[self._heads.end :]
                self._accept(again)
                continue
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or end > MAX_HEAD_BYTES:
                if len(data) > MAX_HEAD_BYTES:
                    self._refuse_unread(Refuse(431, "headers_too_large", "The request's headers are too large."))
                else:
                    self._deadline = min(self._deadline, self._now() + self._gateway.options.head_seconds)
                return
            self._buffer = data[end:]
            try:
                head = self._heads.read(data[:end])
            except BadMessageError as problem:
                self._refuse_unread(Refuse(problem.status, "bad_request", problem.message))
                return
            self._accept(head)

    def _accept(self, head: RequestHead) -> None:
        """Decide on the head alone: what is refused here costs no memory for its body."""
        self._keep_alive = head.keep_alive and not self._gateway.draining
        path = route.path_of(head.target)
        keyring = self._gateway.ledger.keyring
        key = self._owner.identify(keyring, head.credential) if keyring is not None else None
        if isinstance(key, Refuse) and path not in _OPEN_PATHS:
            self._refuse_unread(key)
            return
        operation = None if isinstance(path, Refuse) else route.OPERATIONS.get(path)
        if head.method != b"POST" or isinstance(path, Refuse) or operation is None:
            self._answer_here(head, path, None if isinstance(key, Refuse) else key)
            return
        assert not isinstance(key, Refuse)  # noqa: S101  only the open paths come here without a key
        admitted = _Admitted(head, path, operation, key)
        length = head.length
        if length is not None and length > self._gateway.options.max_body_bytes:
            self._refuse_unread(_TOO_LARGE)
            return
        if length is not None and len(self._buffer) >= length:
            body, self._buffer = self._buffer[:length], self._buffer[length:]
            self._size = length
            self._gateway.buffered += length
            self._start(admitted, body)
            return
        if head.expects_continue and not self._buffer:
            self.write(answers.CONTINUE)
        self._admitted = admitted
        self._chunks = ChunkedBody() if length is None else None
        self._left = length or 0
        options = self._gateway.options
        self._deadline = self._now() + options.body_grace_seconds
        rest, self._buffer = self._buffer, b""
        if rest:
            self._read_body(rest)

    def _read_body(self, data: bytes) -> bool:
        """Take body bytes, what follows the body stays in the buffer; return whether that is to be looked at now."""
        chunks = self._chunks
        if chunks is not None:
            try:
                pieces, used = chunks.feed(data)
            except BadMessageError as problem:
                self._refuse_unread(Refuse(problem.status, "bad_request", problem.message))
                return False
            complete = chunks.done
            taken = sum(map(len, pieces))
        else:
            used = taken = min(len(data), self._left)
            pieces = [data[:used]]
            self._left -= used
            complete = not self._left
        options = self._gateway.options
        self._size += taken
        self._gateway.buffered += taken
        self._deadline += taken / options.body_bytes_per_second
        if self._size > options.max_body_bytes or self._gateway.buffered > options.max_buffered_bytes:
            self._refuse_unread(_TOO_LARGE if self._size > options.max_body_bytes else _FULL)
            return False
        self._parts += pieces
        if not complete:
            return False
        admitted, self._admitted = self._admitted, None
        parts, self._parts = self._parts, []
        self._chunks = None
        self._buffer = data[used:]
        assert admitted is not None  # noqa: S101  a body is read only for an admitted head
        self._start(admitted, b"".join(parts))
        return self._exchange is None

    # Deciding

    def _answer_here(self, head: RequestHead, path: bytes | Refuse, key: Key | None) -> None:
        if head.length != 0:
            self._keep_alive = False
        refusal: Refuse | None = None
        body = b""
        if isinstance(path, Refuse):
            refusal = path
        elif path in (b"/healthz", b"/readyz", b"/v1/models"):
            refusal = None if head.method == b"GET" else _NO_GET
            if path == b"/v1/models":
                body = answers.model_list(keys.visible(self._gateway.table, key), 0)
            elif path == b"/readyz" and not self._gateway.ready:
                refusal = Refuse(503, "not_ready", "The gateway is starting or draining.", "server_error")
            else:
                body = b'{"status":"ok"}'
        else:
            refusal = _NO_POST if path in route.ENGINE_PATHS else Refuse(404, "not_found", "There is no such path.")
        if refusal is None and self._keep_alive:
            self.write(answers.document(200, body, keep_alive=True))
            self._next()
        elif refusal is None:
            self.write(answers.document(200, body, keep_alive=False))
            self._close_softly()
        elif self._keep_alive:
            self._gateway.metrics.refuse(refusal.code)
            self.write(answers.error(refusal, keep_alive=True))
            self._next()
        else:
            self._refuse_unread(refusal)

    def _start(self, admitted: _Admitted, body: bytes) -> None:
        """The request is complete: find its model and begin."""
        head = admitted.head
        try:
            seen = peek.peek(body, head.content_type)
        except peek.UnreadableBodyError as problem:
            self._refuse_read(Refuse(400, "invalid_body", str(problem), param="model"))
            return
        gateway, key = self._gateway, admitted.key
        target = keys.resolve(gateway.table, seen.model, key) or route.resolve(gateway.table, seen.model)
        if not isinstance(target, Target):
            self._refuse_read(target)
            return
        grant: Grant | None = None
        if key is not None:
            meter = gateway.ledger.meter(key, gateway.now())
            reserved = meter.admit(limits.estimate(len(body), seen.document), gateway.now(), gateway.wall_clock())
            if not isinstance(reserved, Grant):
                extra = b"".join(line + b"\r\n" for line in meter.headers(gateway.now()))
                self._refuse_read(reserved, extra)
                return
            grant = reserved
        if target.engine_name != seen.model:
            body = peek.renamed(body, head.content_type, seen, target.engine_name)
        lane = gateway.lanes[target.key]
        tenant = key.tenant if key is not None else ""
        trace: Trace | None = None
        if gateway.tracer is not None:
            trace = gateway.tracer.begin(head.traceparent)
            if trace is not None:
                trace.path, trace.asked, trace.served = admitted.path, seen.model, target.engine_name
                trace.namespace, trace.model = lane.model.namespace, lane.model.name
                trace.adapter, trace.tenant, trace.stream = target.adapter, tenant, seen.stream
        affine = lane.model.prefix_affinity and admitted.path in route.CACHED_PATHS and len(lane.pods) != 1
        model = lane.model
        series = gateway.metrics.of((model.namespace, model.name, target.adapter, tenant, admitted.operation))
        exchange = self._exchange = Exchange(
            gateway,
            self,
            lane,
            series,
            _engine_request(head, body, head.traceparent if trace is None else trace.traceparent),
            stream=seen.stream,
            minor=head.minor,
            keep_alive=self._keep_alive,
            adapter=target.adapter,
            prefix=prefix_of(seen.document, target.adapter) if affine and seen.document else None,
            grant=grant,
            trace=trace,
            tools=series.asked(seen.document) if seen.document is not None else False,
        )
        gateway.started(exchange)
        exchange.begin()

    def _refuse_read(self, refusal: Refuse, extra: bytes = b"") -> None:
        """Refuse a request that was read to its end: the connection is good for the next one."""
        self._gateway.metrics.refuse(refusal.code)
        self.write(answers.error(refusal, keep_alive=self._keep_alive, extra=extra))
        self.finished(keep_alive=self._keep_alive)

    def _refuse_unread(self, refusal: Refuse) -> None:
        """Refuse a request whose end was not found: nothing after it on this connection can be understood."""
        self._gateway.metrics.refuse(refusal.code)
        self.write(answers.error(refusal, keep_alive=False))
        self._close_softly()

    # Client of an exchange

    def write(self, data: bytes) -> None:
        """Send, or queue."""
        if self._transport is not None:
            self._transport.write(data)

    def body_sent(self) -> None:
        """Nobody needs the body any more."""
        self._gateway.buffered -= self._size
        self._size = 0

    def finished(self, *, keep_alive: bool) -> None:
        """The answer is complete; take the next request, or close."""
        self._exchange = None
        if keep_alive and not self._gateway.draining:
            self._next()
        else:
            self._close_softly()

    def abandon(self) -> None:
        """Close at once: the answer cannot be completed."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        self.body_sent()
        self._deadline = self._now() + self._gateway.options.idle_seconds
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        if self._buffer:
            self._gateway.loop.call_soon(self._advance)

    def _close_softly(self) -> None:
        """End our side and let the client read the answer: closing on unread bytes would reset the connection."""
        self.body_sent()
        self._lingering = True
        self._admitted = None
        self._parts = []
        self._buffer = b""
        self._deadline = self._now() + _LINGER_SECONDS
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    # The clock

    def tick(self, now: float) -> None:
        """Once a second: close what is idle, refuse what is slow."""
        if self._paused_at and now - self._paused_at > self._gateway.options.slow_reader_seconds:
            self._abort()
        elif self._exchange is None and now > self._deadline:
            if self._lingering or not (self._buffer or self._admitted):
                self._abort()
            else:
                self._refuse_unread(_TOO_SLOW)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _now(self) -> float:
        return self._gateway.now()

    def drain(self) -> None:
        """Close when the current request is answered."""
        self._keep_alive = False
        if self._exchange is None and self._admitted is None and not self._buffer and self._transport is not None:
            self._transport.close()


def _engine_request(head: RequestHead, body: bytes, traceparent: bytes) -> list[bytes]:
    """The message to the engine: the client's lines that may pass, our framing, the client's bytes."""
    length = b"content-length: %d\r\n\r\n" % len(body)
    if traceparent:
        length = b"traceparent: %b\r\n%b" % (traceparent, length)
    if len(body) < _ONE_PIECE_BYTES:
        return [b"".join((head.passed, length, body))]
    return [head.passed + length, body]
