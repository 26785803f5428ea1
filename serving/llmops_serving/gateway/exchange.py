"""One request on its way: wait for a pod, call it, try another where that is safe, write the answer, count it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmops_serving.gateway import answers, route, text
from llmops_serving.gateway.chunks import payloads
from llmops_serving.gateway.http1 import ResponseHead
from llmops_serving.gateway.lane import Lane, Prefix
from llmops_serving.gateway.limits import Grant
from llmops_serving.gateway.metrics import Series
from llmops_serving.gateway.relay import NotFound, Relay
from llmops_serving.gateway.route import Failure, Refuse
from llmops_serving.gateway.trace import Trace
from llmops_serving.gateway.upstream import Call, Pod
from llmops_serving.gateway.usage import Usage, usage

if TYPE_CHECKING:
    from llmops_serving.gateway.gateway import Gateway
    from llmops_serving.gateway.proxy import ClientConnection

_TAIL_BYTES: Final = 2048
_REFUSAL_BYTES: Final = 4096  # an engine's words about an adapter that it does not know are shorter
_COMMENT_SECONDS = 10.0
_ENGINE_LOST = Refuse(502, "engine_failed", "The engine failed while it worked on the request.", "server_error")
_ENGINE_SILENT = Refuse(504, "timeout", "The engine did not answer in time.", "server_error")
_STREAM_CUT = Refuse(502, "stream_interrupted", "The engine failed before the answer was complete.", "server_error")


class Exchange:
    """A request that has been read and its answer."""

    __slots__ = (
        "_call", "_client", "_ends_at", "_events", "_failures", "_first_at", "_gateway", "_grant", "_json_wanted",
        "_keep_alive", "_lane", "_last_at", "_next_comment", "_not_found", "_relay", "_request", "_request_bytes",
        "_series", "_started", "_stream", "_tail", "_text", "_tools", "_trace", "_tried", "_waits_until", "adapter",
        "prefix",
    )  # fmt: skip

    def __init__(
        self,
        gateway: Gateway,
        client: ClientConnection,
        lane: Lane,
        series: Series,
        request: list[bytes],
        *,
        stream: bool,
        minor: int,
        keep_alive: bool,
        adapter: str = "",
        prefix: Prefix | None = None,
        grant: Grant | None = None,
        trace: Trace | None = None,
        tools: bool = False,
    ) -> None:
        """`request` is the whole message for the engine."""
        self._trace = trace
        self._tools = tools
        self.adapter = adapter
        self.prefix = prefix
        self._grant = grant
        self._gateway = gateway
        self._client = client
        self._lane = lane
        self._series = series
        self._request = request
        self._request_bytes = sum(map(len, request))
        self._stream = stream
        self._keep_alive = keep_alive
        self._relay = Relay(client, minor=minor, keep_alive=keep_alive)
        self._call: Call | None = None
        self._tried: list[str] = []
        self._failures: list[Failure] = []
        self._started = gateway.now()
        self._first_at = self._last_at = 0.0
        self._ends_at = 0.0
        self._waits_until = 0.0
        self._next_comment = 0.0
        self._events = 0
        self._tail = bytearray()
        self._not_found: NotFound | None = None
        self._text: bytearray | None = None
        self._json_wanted = False
        if lane.model.text_sample:
            body = _body(request)
            if text.sampled(body, lane.model.text_sample):
                self._text, self._json_wanted = bytearray(), text.wants_json(body)

    def begin(self) -> None:
        """Forward to a pod now, or wait for one."""
        lane, now = self._lane, self._started
        lane.load.arrivals += 1
        self._gateway.touched(lane)
        pod = lane.pick(now, self.prefix, self.adapter)
        if pod is not None:
            self.forward(pod)
        else:
            self._wait(now)

    def _wait(self, now: float) -> None:
        """Stand in line for a pod."""
        lane = self._lane
        refusal = route.held(lane.model, len(lane.waiting))
        if refusal is not None:
            self.refuse(refusal)
            return
        self._waits_until = self._started + lane.model.hold_seconds
        lane.wait(self, now)
        self._gateway.waits(lane)
        if self._stream and not self._relay.early:
            self._relay.open_stream()
            self._next_comment = now + _COMMENT_SECONDS

    def _wait_again(self, now: float) -> None:
        """No engine has worked on it, and the cluster will notice soon why: it waits as for a model that sleeps."""
        self._call = None
        self._tried.clear()
        self._failures = [each for each in self._failures if each is Failure.LOST]
        self._ends_at = 0.0
        self._lane.load.in_flight -= 1
        self._wait(now)

    def forward(self, pod: Pod) -> None:
        """Call this pod."""
        begins = self._gateway.now() if self._waits_until else self._started
        self._waits_until = 0.0
        if not self._ends_at:
            self._ends_at = begins + self._lane.model.timeout_seconds
            self._lane.load.in_flight += 1
            self._gateway.touched(self._lane)
        if self.prefix is not None:
            pod.prefixes.remember(self.prefix.blocks)
        self._not_found = None
        self._tried.append(pod.address)
        if self._trace is not None:
            self._request = self._trace.attempt(pod.name, pod.address, self._gateway.now(), self._request)
        self._call = pod.call(self, self._request, self._gateway.loop)

    def refuse(self, refusal: Refuse) -> None:
        """End with an answer of our own."""
        relay = self._relay
        if not relay.status:
            self._client.write(answers.error(refusal, keep_alive=self._keep_alive))
            self._end(refusal.status, told=True)
        else:
            self._end(refusal.status, told=relay.cut(refusal))

    # Caller of an upstream call

    def head(self, head: ResponseHead) -> None:
        """The engine answers."""
        if head.status in route.RETRIED_STATUSES and self._try_another(Failure.STATUS):
            return
        if head.status == 404 and self.adapter and self._call is not None and self._call.pod.adapters is not None:
            self._not_found = NotFound(head)
            return
        self._begin_answer(head)

    def _begin_answer(self, head: ResponseHead) -> None:
        if self._grant is not None:
            head.returned += self._grant.meter.headers(self._gateway.now())
        self._relay.head(head)
        if not head.event_stream:
            self._events = -1

    def flush(self) -> None:
        """The body comes later than its head."""
        if self._not_found is None:
            self._relay.flush()

    def data(self, raw: bytes, pieces: list[bytes] | None, *, last: bool) -> None:
        """A part of the answer's body, as `Relay.data` has it."""
        found = self._not_found
        if found is not None:
            found.parts.append((raw, pieces, last))
            if sum([len(part[0]) for part in found.parts]) > _REFUSAL_BYTES:
                self._pass_on(found)
            return
        now = self._gateway.now()
        if not self._first_at:
            self._first_at = now
            self._forget_request()
        elif self._events >= 0:
            self._series.gap.observe(now - self._last_at)
        self._last_at = now
        if self._events >= 0:
            self._events += raw.count(b"\n\n")
        self._tail += raw
        if len(self._tail) > 2 * _TAIL_BYTES:
            del self._tail[:-_TAIL_BYTES]
        if self._text is not None and len(self._text) < text.MAX_BYTES:
            self._text += b"".join(payloads(raw) if pieces is None else pieces)
        self._relay.data(raw, pieces, last=last)

    def _forget_request(self) -> None:
        """The answer has begun, so no other pod will be asked: let go of the prompt while the tokens come."""
        self._request = []
        if self._call is not None:
            self._call.request = []
        self._client.body_sent()

    def answered(self) -> None:
        """The engine's answer is complete."""
        call = self._call
        if call is not None:
            call.pod.succeeded()
        found = self._not_found
        if found is not None:
            if call is not None and found.names(self.adapter):
                self._leave_for_adapter(call.pod)
                return
            self._pass_on(found)
        self._relay.finish()
        self._end(self._relay.status, told=True)

    def _pass_on(self, found: NotFound) -> None:
        """Let the client have what the engine said after all."""
        self._not_found = None
        self._begin_answer(found.head)
        for raw, pieces, last in found.parts:
            self.data(raw, pieces, last=last)

    def _leave_for_adapter(self, pod: Pod) -> None:
        """The pod's record is about an earlier life of its engine: another pod is asked, or the request waits."""
        now = self._gateway.now()
        pod.lacks(self.adapter, now)
        self._series.retries += 1
        if self._trace is not None:
            self._trace.left(Failure.STATUS, now)
        other = self._lane.alternative(now, self._tried, self.adapter)
        if other is not None:
            self.forward(other)
        else:
            self._wait_again(now)

    def failed(self, failure: Failure) -> None:
        """The pod did not answer, or not completely."""
        now = self._gateway.now()
        if self._call is not None and failure is not Failure.STALE:
            self._call.pod.stumbled(now, reached=failure is not Failure.CONNECT)
        if self._trace is not None:
            self._trace.left(failure, now)
        if self._first_at or (self._relay.status and not self._relay.early):
            self._series.cut += 1
            self._end(self._relay.status, told=self._relay.cut(_STREAM_CUT), complete=False)
        elif self._try_another(failure):
            return
        elif failure is Failure.CONNECT:
            self._wait_again(now)
        else:
            self.refuse(_ENGINE_LOST)

    def _try_another(self, failure: Failure) -> bool:
        """Leave the pod and call another, where that is safe and there is one."""
        if not route.may_retry(failure, self._failures):
            return False
        now = self._gateway.now()
        lane = self._lane
        tried = self._tried if failure is not Failure.STALE else ()
        pod = lane.alternative(now, tried, self.adapter)
        if pod is None:
            return False
        self._failures.append(failure)
        self._series.retries += 1
        if failure is Failure.STATUS and self._call is not None:
            if self._trace is not None:
                self._trace.left(failure, now)
            self._call.pod.stumbled(now)
            self._call.cancel()
        self.forward(pod)
        return True

    # Called by the connection and the clock

    def pause(self) -> None:
        """The client reads slower than the engine writes."""
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        """The client has caught up."""
        if self._call is not None:
            self._call.resume()

    def client_left(self) -> None:
        """The client closed its connection: free everything. A wake it caused goes on."""
        self._lane.leave(self)
        if self._call is not None:
            self._call.cancel()
        self._count(499, self._gateway.now(), complete=False)

    def tick(self, now: float) -> None:
        """Once a second: keep waiting streams alive, give up what takes too long."""
        if self._waits_until:
            if now >= self._waits_until:
                self._lane.leave(self)
                self.refuse(self._lane.too_late())
            elif self._next_comment and now >= self._next_comment:
                self._next_comment = now + _COMMENT_SECONDS
                self._relay.comment()
            return
        stalled = self._first_at and now - self._last_at > self._gateway.options.stall_seconds
        if now < self._ends_at and not stalled:
            return
        if self._trace is not None:
            self._trace.left(Failure.SILENT, now)
        if self._call is not None:
            self._call.pod.stumbled(now)
            self._call.cancel()
        if self._first_at or (self._relay.status and not self._relay.early):
            self._series.cut += 1
            self._end(self._relay.status, told=self._relay.cut(_ENGINE_SILENT), complete=False)
        else:
            self.refuse(_ENGINE_SILENT)

    def _end(self, status: int, *, told: bool, complete: bool = True) -> None:
        # uvloop sends what was written in a turn when the turn is over. Counting comes after that, so that no client
        # waits for it, and before anything else is read, so that nobody sees a request that was not counted.
        gateway = self._gateway
        gateway.loop.call_soon(self._count, status, gateway.now(), complete)
        if told:
            self._client.finished(keep_alive=self._keep_alive)
        else:
            self._client.abandon()

    def _count(self, status: int, now: float, complete: bool) -> None:  # noqa: FBT001  as `call_soon` passes it
        gateway, lane, series = self._gateway, self._lane, self._series
        series.ended(status, now - self._started)
        if self._first_at and status < 400:
            series.first_byte.observe(self._first_at - self._started)
        used: int | None = 0  # what no engine answered costs nothing
        seen: Usage | None = None
        if self._first_at and (status < 400 or not complete):
            events = self._events if self._events >= 0 else None
            seen = usage(bytes(self._tail), events, complete=complete)
            used = self._count_tokens(seen)
        if self._text is not None and complete and status == 200:
            gateway.look_at(bytes(self._text), json_wanted=self._json_wanted, series=series)
        if self._grant is not None:
            self._grant.meter.settle(self._grant, used)
        if gateway.audit is not None:
            key = self._grant.meter.key if self._grant is not None else None
            gateway.audit.note(
                model=lane.model.key,
                adapter=self.adapter,
                tenant=key.tenant if key is not None else "",
                key=key.name if key is not None else "",
                status=status,
                seconds=now - self._started,
                tokens=used,
            )
        if self._trace is not None:
            self._write_trace(self._trace, status, now, seen, complete=complete)
        if self._ends_at:
            lane.load.in_flight -= 1
            lane.load.last_end = gateway.wall_clock()
        gateway.ended(self, lane, now)

    def _write_trace(self, trace: Trace, status: int, now: float, seen: Usage | None, *, complete: bool) -> None:
        """The request is over: its trace is."""
        gateway = self._gateway
        trace.left("" if complete else "cancelled", now)
        trace.started, trace.started_at = self._started, gateway.wall_clock() - (now - self._started)
        trace.first_at, trace.ended = self._first_at, now
        trace.status, trace.complete, trace.usage = status, complete, seen
        if gateway.tracer is not None:
            gateway.tracer.write(trace)

    def _count_tokens(self, seen: Usage) -> int | None:
        """Count what the answer says; return all tokens, None where nobody knows."""
        load, series = self._lane.load, self._series
        if seen.prompt is not None:
            series.prompt_tokens.observe(seen.prompt)
            load.prompt_tokens += seen.prompt
        if seen.completion is not None:
            series.completion_tokens.observe(seen.completion)
            load.completion_tokens += seen.completion
        series.answered(seen, tools=self._tools)
        if seen.completion is None:
            return None
        return seen.completion + (seen.prompt if seen.prompt is not None else self._request_bytes // 4)


def _body(request: list[bytes]) -> bytes:
    """The body of a message to an engine; a small one is in one piece with its head."""
    return request[1] if len(request) > 1 else request[0].partition(b"\r\n\r\n")[2]
