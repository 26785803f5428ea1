"""One model while it is served: its pods, the requests that wait for them, what is counted."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from llmops_serving.gateway import affinity, route
from llmops_serving.gateway.load import Load
from llmops_serving.gateway.table import Model
from llmops_serving.gateway.upstream import Pod

if TYPE_CHECKING:
    from llmops_serving.gateway.exchange import Exchange

_UNKNOWN_LOAD_SECONDS = 30.0


class Prefix:
    """A prompt's beginning: chained hashes of its blocks, and the first of them as it is."""

    __slots__ = ("blocks", "first_block")

    def __init__(self, blocks: list[int], first_block: bytes) -> None:
        self.blocks = blocks
        self.first_block = first_block


def prefix_of(document: dict[str, Any], adapter: str) -> Prefix | None:
    """None for a prompt shorter than a block, which no cache can help."""
    text = affinity.prompt(document)
    if len(text) < affinity.BLOCK_BYTES:
        return None
    return Prefix(affinity.blocks(text, adapter), text[: affinity.BLOCK_BYTES])


class Lane:
    """Mutable state of one model. Requests wait in the order they came, and newer ones never overtake them."""

    __slots__ = ("_empty_since", "load", "load_seconds", "model", "pods", "starting", "turn", "waiting")

    def __init__(self, model: Model) -> None:
        """A lane without pods."""
        self.model = model
        self.load = Load(model.key)
        self.pods: list[Pod] = []
        self.starting: list[Pod] = []
        self.waiting: dict[Exchange, None] = {}
        self.turn = 0
        self.load_seconds: float | None = None  # how long the last start from nothing took
        self._empty_since: float | None = None

    def pick(self, now: float, prefix: Prefix | None = None, adapter: str = "") -> Pod | None:
        """The pod for a request that need not wait; None when there is none, or others wait for the same already."""
        for request in self.waiting:
            if request.adapter == adapter:
                return None
        return self._best(now, prefix, adapter)

    def _best(self, now: float, prefix: Prefix | None, adapter: str) -> Pod | None:
        pods = self._serving(adapter)
        if prefix is not None and len(pods) > 1:
            pod = affinity.choice(pods, prefix.blocks, prefix.first_block, now)
            if pod is not None:
                return pod
        self.turn += 1
        return route.least_loaded(pods, now, (), self.turn)

    def _serving(self, adapter: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.has(adapter)] if adapter else self.pods

    def alternative(self, now: float, tried: Collection[str], adapter: str) -> Pod | None:
        """Another pod for a request whose pod failed; it was admitted before those that wait."""
        return route.least_loaded(self._serving(adapter), now, tried, self.turn)

    def wait(self, request: Exchange, now: float) -> None:
        """Put a request at the end of the queue."""
        if not self.waiting and not self.pods:
            self._empty_since = now
        self.waiting[request] = None
        self.load.waiting = len(self.waiting)

    def leave(self, request: Exchange) -> None:
        """Take a request out of the queue, wherever it is."""
        self.waiting.pop(request, None)
        self.load.waiting = len(self.waiting)

    def release(self, now: float) -> None:
        """Give waiting requests to the pods, in order, as many as these work on at once.

        Those whose adapter no pod has yet wait on, and hold up nobody.
        """
        if not self.waiting or not self.pods:
            return
        if self._empty_since is not None:
            self.load_seconds, self._empty_since = now - self._empty_since, None
        room = sum(route.release_room(self.model, [pod.in_flight for pod in self.pods]))
        for request in list(self.waiting):
            if not room:
                return
            pod = self._best(now, request.prefix, request.adapter)
            if pod is not None and request in self.waiting:
                self.leave(request)
                request.forward(pod)
                room -= 1

    def fail_waiting(self) -> None:
        """Answer everyone who waits for a model that cannot come up."""
        refusal = route.held(self.model, 0)
        if refusal is None:
            return
        for request in list(self.waiting):
            self.leave(request)
            request.refuse(refusal)

    def too_late(self) -> route.Refuse:
        """The answer to a request that waited as long as it may."""
        seconds = self.load_seconds or _UNKNOWN_LOAD_SECONDS
        message = f"No replica of this model became ready within {self.model.hold_seconds:g} s."
        return route.Refuse(503, "model_not_ready", message, "server_error", retry_after=max(1, round(seconds)))
