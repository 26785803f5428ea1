"""An OTLP/HTTP receiver: what a collector would get, decoded by OpenTelemetry's own protobufs."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    failed: bool
    seconds: float


@dataclass
class Receiver:
    """`spans` is everything that arrived."""

    port: int = 0
    spans: list[Span] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(a.value.string_value for a in sent.resource.attributes if a.key == "service.name")
            self.spans += [_span(service, span) for scope in sent.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")


def _span(service: str, wire: Wire) -> Span:
    return Span(
        service=service,
        name=wire.name,
        kind=Wire.SpanKind.Name(wire.kind).removeprefix("SPAN_KIND_"),
        trace_id=wire.trace_id.hex(),
        span_id=wire.span_id.hex(),
        parent_id=wire.parent_span_id.hex(),
        attributes={attribute.key: _value(attribute.value) for attribute in wire.attributes},
        failed=wire.status.code == Status.STATUS_CODE_ERROR,
        seconds=(wire.end_time_unix_nano - wire.start_time_unix_nano) / 1e9,
    )


def _value(value: AnyValue) -> Any:
    if value.HasField("array_value"):
        return [_value(one) for one in value.array_value.values]
    return getattr(value, value.WhichOneof("value") or "string_value")


@contextlib.contextmanager
def hearing() -> Iterator[Receiver]:
    """A receiver in a thread of its own, for processes that live longer than one loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    serving = receiver()
    try:
        yield asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(60)
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)


@contextlib.asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    built = Receiver()
    app = web.Application()
    app.add_routes([web.post("/v1/traces", built.take)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    built.port = runner.addresses[0][1]
    try:
        yield built
    finally:
        await runner.cleanup()
