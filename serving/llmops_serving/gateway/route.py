"""The gateway's decisions: which path is served, which model is meant, which pod gets it, what is tried again. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from llmops_serving.gateway.table import Ambiguous, Model, Table, Target

# vLLM serves more below /v1 than inference: loading adapters, waking, sleeping. Only these are passed on.
ENGINE_PATHS: Final = frozenset(
    b"/v1/" + path
    for path in (
        b"chat/completions", b"completions", b"embeddings", b"responses", b"rerank", b"score", b"classify", b"pooling",
        b"messages", b"messages/count_tokens", b"moderations", b"audio/transcriptions", b"audio/translations",
        b"audio/speech", b"images/generations", b"images/edits",
    )
)  # fmt: skip
# Where the prompt's beginning decides how much the engine has to compute.
CACHED_PATHS: Final = frozenset({b"/v1/chat/completions", b"/v1/completions", b"/v1/responses", b"/v1/messages"})
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/; what it has no word for is called by its path.
OPERATIONS: Final[dict[bytes, str]] = {path: path.decode().removeprefix("/v1/") for path in ENGINE_PATHS} | {
    b"/v1/chat/completions": "chat",
    b"/v1/messages": "chat",
    b"/v1/responses": "chat",
    b"/v1/completions": "text_completion",
    b"/v1/embeddings": "embeddings",
}
_PLAIN_PATH: Final = re.compile(rb"(?:/[A-Za-z0-9_\-.:]+)+")
MAX_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Refuse:
    """An answer in OpenAI's error shape. `retry_after` in seconds."""

    status: int
    code: str
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    retry_after: int | None = None


class Candidate:
    """What choosing needs to know of a pod. Times are on the clock that `now` comes from."""

    __slots__ = ("address", "ejected_until", "in_flight", "unreachable")

    def __init__(self, address: str) -> None:
        """Idle and trusted."""
        self.address = address
        self.in_flight = 0
        self.ejected_until = 0.0
        self.unreachable = False  # nobody listened there when it was last called


PodT = TypeVar("PodT", bound=Candidate)


@functools.lru_cache(maxsize=256)
def path_of(target: bytes) -> bytes | Refuse:
    """The path of a request target: the query cut off, and nothing in it that two readers could resolve differently."""
    path = target.partition(b"?")[0]
    if _PLAIN_PATH.fullmatch(path) is None or b"/." in path:
        return Refuse(404, "not_found", "There is no such path.")
    return path


def resolve(table: Table, name: str) -> Target | Refuse:
    """The model that a request's `model` means."""
    match table.names.get(name):
        case Target() as target:
            return target
        case Ambiguous(choices):
            known = ", ".join(choices)
            return Refuse(400, "model_ambiguous", f"Several models have this name; use one of: {known}.", param="model")
        case _:
            return Refuse(404, "model_not_found", _unknown(name), param="model")


def _unknown(name: str) -> str:
    shown = name if len(name) <= 128 else name[:128] + "…"
    return f"The model `{shown}` does not exist. `GET /v1/models` lists those that do."


def least_loaded(pods: Sequence[PodT], now: float, tried: Collection[str] = (), turn: int = 0) -> PodT | None:
    """The pod with the fewest requests in flight among those neither tried nor ejected; `turn` breaks ties fairly.

    When all that are left are ejected, the one whose ejection ends first: a guess beats a refusal. But none where
    nobody listens: requests wait until somebody does.
    """
    count = len(pods)
    best: PodT | None = None
    last_resort: PodT | None = None
    for offset in range(count):
        pod = pods[(turn + offset) % count]
        if tried and pod.address in tried:
            continue
        if pod.ejected_until > now:
            if not pod.unreachable and (last_resort is None or pod.ejected_until < last_resort.ejected_until):
                last_resort = pod
        elif best is None or pod.in_flight < best.in_flight:
            best = pod
            if not best.in_flight:
                break
    return best or last_resort


class Failure(StrEnum):
    """How an attempt at a pod ended without an answer that can be passed on."""

    CONNECT = "connect"  # the request was not sent
    STALE = "stale"  # a kept connection was closed before a byte of the answer: the pod never saw the request
    LOST = "lost"  # the connection ended after the request was sent
    STATUS = "status"  # 502, 503 or 504
    SILENT = "silent"  # no answer in time
    GARBAGE = "garbage"  # the answer is not HTTP


RETRIED_STATUSES: Final = frozenset({502, 503, 504})


def may_retry(failure: Failure, failures: Sequence[Failure]) -> bool:
    """Whether another pod is tried after `failure`, given the earlier ones; asked only before the first byte.

    A request whose connection was lost may be what killed the pod, so it gets one more, not two: a poisonous prompt
    must not walk through all replicas.
    """
    if len(failures) >= MAX_TRIES - 1:
        return False
    match failure:
        case Failure.CONNECT | Failure.STALE | Failure.STATUS:
            return True
        case Failure.LOST:
            return Failure.LOST not in failures
        case _:
            return False


def ejection_seconds(consecutive_failures: int) -> float:
    """How long a pod gets no requests after that many failures in a row: 1 s, doubling, at most 60 s."""
    return float(min(60, 2 ** min(consecutive_failures - 1, 6)))


def held(model: Model, waiting: int) -> Refuse | None:
    """Whether a request may wait for `model`, of which `waiting` already do; None means yes."""
    if model.failure is not None:
        return Refuse(503, "model_failed", f"The model cannot be served. {model.failure}", "server_error")
    if waiting >= model.max_held:
        message = f"{waiting} requests already wait for this model to start."
        return Refuse(429, "too_many_waiting", message, "rate_limit_error", retry_after=5)
    return None


def release_room(model: Model, in_flight: Iterable[int]) -> list[int]:
    """How many waiting requests each pod may get now: up to its target concurrency, or 64 where none is given."""
    limit = model.concurrency or 64
    return [max(0, limit - count) for count in in_flight]
