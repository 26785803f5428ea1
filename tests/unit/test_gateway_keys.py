"""Who may ask for what, and how much of it."""

from __future__ import annotations

import pytest

from llmops_serving.gateway import route
from llmops_serving.gateway.keys import Key, from_fields, resolve, visible
from llmops_serving.gateway.limits import Crowd, Grant, Meter
from llmops_serving.gateway.route import Refuse
from llmops_serving.gateway.table import Model, Target, table

TABLE = table(
    [
        Model("a", "support", "support", ("tickets",)),
        Model("b", "support", "support"),
        Model("a", "llama", "llama-8b"),
        Model("b", "code", "code"),
    ]
)

KEYS = {
    "everything": "*",
    "one namespace": "a/*",
    "one model": "b/support",
    "an adapter": "a/tickets",
    "a bare name": "code",
    "an ambiguous bare name": "support",
    "nothing": "",
}
RIGHTS: list[tuple[str, str, str | None]] = [
    ("everything", "code", "b/code"),
    ("everything", "support", None),
    ("one namespace", "support", "a/support"),
    ("one namespace", "b/support", None),
    ("one namespace", "code", None),
    ("one namespace", "tickets", "a/support"),
    ("one model", "support", "b/support"),
    ("one model", "a/support", None),
    ("one model", "tickets", None),
    ("an adapter", "tickets", "a/support"),
    ("an adapter", "a/support", None),
    ("a bare name", "code", "b/code"),
    ("a bare name", "b/code", "b/code"),
    ("an ambiguous bare name", "support", None),
    ("an ambiguous bare name", "a/support", None),
    ("nothing", "code", None),
]


def key(models: str) -> Key:
    return from_fields("k", {"hash": "0" * 64, "tenant": "t", "models": models})


@pytest.mark.parametrize(("rights", "name", "reached"), RIGHTS)
def test_a_key_for(rights: str, name: str, reached: str | None) -> None:
    found = resolve(TABLE, name, key(KEYS[rights])) or route.resolve(TABLE, name)
    assert (found.key if isinstance(found, Target) else None) == reached


def test_a_key_lists_what_it_may_use() -> None:
    assert visible(TABLE, key("a/*")) == ["a/support", "llama-8b", "tickets"]
    assert visible(TABLE, None) == ["a/support", "b/support", "code", "llama-8b", "tickets"]


BAD_KEYS = [
    {},
    {"hash": "x", "tenant": "t"},
    {"hash": "A" * 64, "tenant": "t"},
    {"hash": "0" * 64},
    {"hash": "0" * 64, "tenant": 'a"b'},
    {"hash": "0" * 64, "tenant": "t", "requestsPerMinute": "-1"},
    {"hash": "0" * 64, "tenant": "t", "tokensPerMinute": "1e9"},
]


@pytest.mark.parametrize("fields", BAD_KEYS)
def test_a_malformed_key_is_none(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="`"):
        from_fields("k", fields)


def admitted(meter: Meter, tokens: int, now: float, wall: float = 0.0) -> bool:
    return isinstance(meter.admit(tokens, now, wall), Grant)


def test_requests_per_minute_refill_evenly() -> None:
    meter = Meter(from_fields("k", {"hash": "0" * 64, "tenant": "t", "requestsPerMinute": "6"}), 0.0, Crowd())
    assert [admitted(meter, 0, 0.0) for _ in range(7)] == [True] * 6 + [False]
    assert not admitted(meter, 0, 9.9)
    assert admitted(meter, 0, 10.0)


def test_tokens_are_settled_with_what_was_used() -> None:
    meter = Meter(from_fields("k", {"hash": "0" * 64, "tenant": "t", "tokensPerMinute": "100"}), 0.0, Crowd())
    grant = meter.admit(90, 0.0, 0.0)
    assert isinstance(grant, Grant)
    assert not admitted(meter, 20, 0.0)
    meter.settle(grant, 10)
    meter.settle(grant, 10)
    assert admitted(meter, 90, 0.0), "ten were used"
    assert not admitted(meter, 1, 0.0)


def test_a_request_larger_than_a_minute_may_pass_with_a_full_minute() -> None:
    meter = Meter(from_fields("k", {"hash": "0" * 64, "tenant": "t", "tokensPerMinute": "100"}), 0.0, Crowd())
    assert admitted(meter, 500, 0.0)
    assert not admitted(meter, 1, 60.0), "and is paid for"


def test_a_budget_begins_again_with_the_month() -> None:
    meter = Meter(from_fields("k", {"hash": "0" * 64, "tenant": "t", "monthlyTokens": "100"}), 0.0, Crowd())
    january, february = 1767225600.0, 1769904000.0
    grant = meter.admit(1, 0.0, january)
    assert isinstance(grant, Grant)
    meter.settle(grant, 100)
    refusal = meter.admit(1, 0.0, february - 60)
    assert isinstance(refusal, Refuse)
    assert refusal.retry_after == 60
    assert admitted(meter, 1, 0.0, february)
