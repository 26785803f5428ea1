"""Which model, which pod, what is tried again: the gateway's decisions as tables."""

from __future__ import annotations

import pytest

from llmops_serving.gateway import route
from llmops_serving.gateway.affinity import Caching
from llmops_serving.gateway.route import Failure, Refuse
from llmops_serving.gateway.table import Model, Target, table

TABLE = table(
    [
        Model("a", "support", "support", ("tickets",)),
        Model("b", "support", "support"),
        Model("a", "llama", "llama-8b"),
        Model("b", "code", "code"),
    ]
)

NAMES = [
    ("a served name", "llama-8b", Target("a/llama", "llama-8b")),
    ("namespace and object name", "a/llama", Target("a/llama", "llama-8b")),
    ("namespace and served name", "a/llama-8b", Target("a/llama", "llama-8b")),
    ("an adapter", "tickets", Target("a/support", "tickets", "tickets")),
    ("a qualified adapter", "a/tickets", Target("a/support", "tickets", "tickets")),
    ("a name in two namespaces, qualified", "b/support", Target("b/support", "support")),
    ("a name in two namespaces", "support", (400, "model_ambiguous")),
    ("an object's name that is not served", "llama", (404, "model_not_found")),
    ("an unknown name", "gpt-4", (404, "model_not_found")),
    ("an unknown namespace", "c/support", (404, "model_not_found")),
]


@pytest.mark.parametrize(("name", "expected"), [case[1:] for case in NAMES], ids=[case[0] for case in NAMES])
def test_a_name_means(name: str, expected: Target | tuple[int, str]) -> None:
    found = route.resolve(TABLE, name)
    assert (found if isinstance(found, Target) else (found.status, found.code)) == expected


def test_an_ambiguous_name_is_refused_with_the_choices() -> None:
    refusal = route.resolve(TABLE, "support")
    assert isinstance(refusal, Refuse)
    assert refusal.message == "Several models have this name; use one of: a/support, b/support."


PATHS = [
    (b"/v1/chat/completions", b"/v1/chat/completions"),
    (b"/v1/chat/completions?a=/../x", b"/v1/chat/completions"),
    (b"/v1/../metrics", None),
    (b"/v1/./completions", None),
    (b"/v1//completions", None),
    (b"/v1/completions/", None),
    (b"/v1/%63ompletions", None),
    (b"/v1/completions%00", None),
    (b"/v1/completions;x", None),
    (b"/v1\\completions", None),
    (b"//v1/completions", None),
    (b"/v1/completions#x", None),
]


@pytest.mark.parametrize(("target", "path"), PATHS, ids=[case[0].decode() for case in PATHS])
def test_a_path_is_plain_or_nothing(target: bytes, path: bytes | None) -> None:
    found = route.path_of(target)
    assert found == path if path else isinstance(found, Refuse)


@pytest.mark.parametrize("path", [b"load_lora_adapter", b"unload_lora_adapter", b"models", b"../pause", b"tokenize"])
def test_what_changes_an_engine_is_not_passed_on(path: bytes) -> None:
    assert b"/v1/" + path not in route.ENGINE_PATHS


def pod(address: str, in_flight: int = 0, ejected_until: float = 0.0, *, unreachable: bool = False) -> Caching:
    found = Caching(address)
    found.in_flight, found.ejected_until, found.unreachable = in_flight, ejected_until, unreachable
    return found


LEAST: list[tuple[str, list[Caching], list[str], str | None]] = [
    ("the idle one", [pod("a", 3), pod("b", 0), pod("c", 1)], [], "b"),
    ("not one that was tried", [pod("a", 3), pod("b", 0), pod("c", 1)], ["b"], "c"),
    ("not an ejected one", [pod("a", 3), pod("b", 0, 20.0), pod("c", 1)], [], "c"),
    ("an ejected one where all are", [pod("a", 0, 30.0), pod("b", 0, 20.0)], [], "b"),
    (
        "but none where nobody listens",
        [pod("a", 0, 30.0), pod("b", 0, 20.0, unreachable=True)],
        [],
        "a",
    ),
    ("and rather nobody", [pod("a", 0, 30.0, unreachable=True)], [], None),
    ("until its time is over", [pod("a", 0, 9.0, unreachable=True)], [], "a"),
    ("nobody where all were tried", [pod("a")], ["a"], None),
    ("nobody where nobody is", [], [], None),
]


@pytest.mark.parametrize(("pods", "tried", "chosen"), [case[1:] for case in LEAST], ids=[case[0] for case in LEAST])
def test_the_least_loaded_is(pods: list[Caching], tried: list[str], chosen: str | None) -> None:
    found = route.least_loaded(pods, now=10.0, tried=tried)
    assert (found and found.address) == chosen


RETRIES: list[tuple[Failure, list[Failure], bool]] = [
    (Failure.CONNECT, [], True),
    (Failure.CONNECT, [Failure.CONNECT], True),
    (Failure.CONNECT, [Failure.CONNECT, Failure.STATUS], False),
    (Failure.STALE, [], True),
    (Failure.STATUS, [Failure.LOST], True),
    (Failure.LOST, [], True),
    (Failure.LOST, [Failure.LOST], False),
    (Failure.SILENT, [], False),
    (Failure.GARBAGE, [], False),
]


@pytest.mark.parametrize(("failure", "earlier", "again"), RETRIES)
def test_another_try_after(failure: Failure, earlier: list[Failure], again: bool) -> None:  # noqa: FBT001
    assert route.may_retry(failure, earlier) is again


def test_ejections_grow_to_a_minute() -> None:
    assert [route.ejection_seconds(n) for n in (1, 2, 3, 6, 7, 50)] == [1, 2, 4, 32, 60, 60]
