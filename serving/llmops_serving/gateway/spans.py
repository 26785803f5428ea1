"""Finished traces as OpenTelemetry spans, sent by its SDK over OTLP/HTTP. Imported only where traces are wanted.

Names are those of the semantic conventions for HTTP and for generative AI, in the words that vLLM's own spans use
where the conventions have none. Prompts and answers are in no span. The SDK's own environment variables hold: headers
and certificates of the receiver (`OTEL_EXPORTER_OTLP_*`), size of its queue (`OTEL_BSP_*`), attributes of the process
(`OTEL_RESOURCE_ATTRIBUTES`). A receiver that is away costs spans, never requests: the queue is bounded.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from llmops_serving.gateway.route import OPERATIONS
from llmops_serving.gateway.trace import Attempt, Trace

Attributes = dict[str, str | int | float | bool | list[str]]

_SECOND = 1_000_000_000  # in nanoseconds


class _Known(IdGenerator):
    """Gives the ids that the engine was already told."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class Spans:
    """Writes traces to an OTLP receiver from a thread of the SDK's."""

    def __init__(self, endpoint: str, identity: str) -> None:
        """`endpoint` is the receiver's base URL, such as http://collector:4318; `identity` names this process."""
        self._ids = _Known()
        resource = Resource.create({"service.name": "llmops-gateway", "service.instance.id": identity})
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("llmops.gateway")

    def write(self, trace: Trace) -> None:
        """Queue the spans of one request: itself, and each call of a pod below it."""
        above = _remote(trace) if trace.parent_id else None
        self._ids.trace_id, self._ids.span_id = trace.trace_id, trace.span_id
        name, began = f"POST {trace.path.decode()}", _since_1970(trace, trace.started)
        request = self._tracer.start_span(name, above, SpanKind.SERVER, _request(trace), start_time=began)
        operation = OPERATIONS[trace.path]
        for attempt in trace.attempts:
            last = attempt is trace.attempts[-1]
            attributes = _call(trace, attempt, operation, last=last)
            self._ids.span_id = attempt.span_id
            name, began = f"{operation} {trace.asked}", _since_1970(trace, attempt.began)
            below = set_span_in_context(request)
            call = self._tracer.start_span(name, below, SpanKind.CLIENT, attributes, start_time=began)
            _end(call, attempt.failure or (_error(trace) if last else ""), _since_1970(trace, attempt.ended))
        _end(request, _error(trace), _since_1970(trace, trace.ended))

    def close(self) -> None:
        """Send what is queued, within the SDK's time-out; blocks."""
        self._provider.shutdown()


def _remote(trace: Trace) -> Context:
    """The client's span, of which nothing but its ids is known."""
    caller = SpanContext(trace.trace_id, trace.parent_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(caller))


def _end(span: Span, error: str, moment: int) -> None:
    if error:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)
    span.end(end_time=moment)


def _since_1970(trace: Trace, moment: float) -> int:
    return int((trace.started_at + moment - trace.started) * _SECOND)


def _error(trace: Trace) -> str:
    """How the request failed, for `error.type`; a client's fault is none of the server's (HTTP conventions)."""
    if trace.status >= 500:
        return str(trace.status)
    if trace.status == 499:
        return "client_left"
    return "" if trace.complete else "interrupted"


def _request(trace: Trace) -> Attributes:
    attributes: Attributes = {
        "http.request.method": "POST",
        "http.route": trace.path.decode(),
        "url.path": trace.path.decode(),
        "url.scheme": "http",
        "http.response.status_code": trace.status,
        "gen_ai.request.model": trace.asked,
        "k8s.namespace.name": trace.namespace,
        "llmops.model": trace.model,
        "llmops.adapter": trace.adapter,
        "llmops.tenant": trace.tenant,
        "llmops.attempts": len(trace.attempts),
    }
    if trace.attempts:
        attributes["llmops.held_seconds"] = round(trace.attempts[0].began - trace.started, 6)
    if trace.first_at:
        attributes["gen_ai.latency.time_to_first_token"] = trace.first_at - trace.started
    return attributes


def _call(trace: Trace, attempt: Attempt, operation: str, *, last: bool) -> Attributes:
    host, _, port = attempt.address.rpartition(":")
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": trace.asked,
        "gen_ai.request.stream": trace.stream,
        "server.address": host,
        "server.port": int(port),
        "k8s.pod.name": attempt.pod,
    }
    seen = trace.usage if last else None
    if seen is not None:
        attributes["gen_ai.response.model"] = trace.served
        if seen.prompt is not None:
            attributes["gen_ai.usage.input_tokens"] = seen.prompt
        if seen.completion is not None:
            attributes["gen_ai.usage.output_tokens"] = seen.completion
        if seen.finish_reason is not None:
            attributes["gen_ai.response.finish_reasons"] = [seen.finish_reason]
    return attributes
