"""Which model, which pod, what is tried again: the gateway's decisions as tables."""

from __future__ import annotations

from typing import Any

import pytest

from llmops_serving.gateway import affinity, route
from llmops_serving.gateway.affinity import Caching, Prefixes
from llmops_serving.gateway.keys import Key, from_fields, visible
from llmops_serving.gateway.keys import resolve as resolve_for
from llmops_serving.gateway.limits import Crowd, Grant, Meter
from llmops_serving.gateway.peek import UnreadableBodyError, peek, renamed
from llmops_serving.gateway.route import Failure, Refuse
from llmops_serving.gateway.table import Endpoint, Model, Target, from_cluster, from_routes, table
from llmops_serving.gateway.usage import Usage, usage

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


BODIES: list[tuple[str, bytes, str | None]] = [
    ("the model first", b'{"model":"a","messages":[]}', "a"),
    ("the model last", b'{"messages":[{"content":"x"}],"model":"a"}', "a"),
    ("a nested model before it", b'{"metadata":{"model":"evil"},"model":"a"}', "a"),
    ("a nested model after it", b'{"model":"a","metadata":{"model":"evil"}}', "a"),
    ("a model in a string", b'{"prompt":"\\"model\\":\\"evil\\"","model":"a"}', "a"),
    ("a string that ends like a key", b'{"prompt":"\\"model","model":"a"}', "a"),
    ("an escaped key", b'{"mod\\u0065l":"a"}', "a"),
    ("an escaped value", b'{"model":"\\u0061"}', "a"),
    ("the key twice", b'{"model":"a","model":"b"}', None),
    ("the key twice, once escaped", b'{"model":"a","\\u006dodel":"b"}', None),
    ("the key twice, one nested between", b'{"model":"a","x":{"model":"c"},"model":"b"}', None),
    ("no model", b'{"messages":[]}', None),
    ("only a nested model", b'{"x":{"model":"a"}}', None),
    ("an empty model", b'{"model":""}', None),
    ("a number", b'{"model":1}', None),
    ("an array", b'["model","a"]', None),
    ("half an object", b'{"model":"a"', None),
    ("two objects", b'{"model":"a"}{"model":"b"}', None),
    ("a byte order mark", b'\xef\xbb\xbf{"model":"a"}', None),
    ("bad UTF-8", b'{"model":"\xff"}', None),
    ("nothing", b"", None),
]


@pytest.mark.parametrize(("body", "model"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_the_model_of_a_body_is(body: bytes, model: str | None) -> None:
    if model is None:
        with pytest.raises(UnreadableBodyError):
            peek(body, b"application/json")
    else:
        assert peek(body, b"application/json").model == model


def form(*parts: tuple[str, bytes]) -> bytes:
    encoded = b"".join(
        b'--xx\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
        for name, value in parts
    )
    return encoded + b"--xx--\r\n"


FORMS: list[tuple[str, bytes, str | None]] = [
    ("the model", form(("file", b"RIFF\r\n\r\n"), ("model", b"a")), "a"),
    ("the model twice", form(("model", b"a"), ("model", b"b")), None),
    ("no model", form(("file", b"x")), None),
    ("a model inside a file", form(("file", b'name="model"\r\n\r\nevil'), ("model", b"a")), "a"),
    ("no parts", b"--xx--\r\n", None),
    ("another boundary", b'--yy\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n--yy--\r\n', None),
]


@pytest.mark.parametrize(("body", "model"), [case[1:] for case in FORMS], ids=[case[0] for case in FORMS])
def test_the_model_of_a_form_is(body: bytes, model: str | None) -> None:
    kind = b"multipart/form-data; boundary=xx"
    if model is None:
        with pytest.raises(UnreadableBodyError):
            peek(body, kind)
    else:
        seen = peek(body, kind)
        assert seen.model == model
        assert peek(renamed(body, kind, seen, "other"), kind).model == "other"


RENAMES = [
    (b'{"model":"a/x", "n":1 }', b'{"model":"x", "n":1 }'),
    (b'{ "n":1, "model" :  "a/x"}', b'{ "n":1, "model":"x"}'),
    (b'{"model":"a\\/x"}', b'{"model":"x"}'),
    (b'{"q":{"model":"a/x"},"mod\\u0065l":"a/x"}', b'{"q":{"model":"a/x"},"model":"x"}'),
]


@pytest.mark.parametrize(("before", "after"), RENAMES)
def test_only_the_model_is_renamed(before: bytes, after: bytes) -> None:
    assert renamed(before, b"", peek(before, b""), "x") == after


def pod(address: str, in_flight: int = 0, ejected_until: float = 0.0) -> Caching:
    found = Caching(address)
    found.in_flight, found.ejected_until = in_flight, ejected_until
    return found


LEAST: list[tuple[str, list[Caching], list[str], str | None]] = [
    ("the idle one", [pod("a", 3), pod("b", 0), pod("c", 1)], [], "b"),
    ("not one that was tried", [pod("a", 3), pod("b", 0), pod("c", 1)], ["b"], "c"),
    ("not an ejected one", [pod("a", 3), pod("b", 0, 20.0), pod("c", 1)], [], "c"),
    ("an ejected one where all are", [pod("a", 0, 30.0), pod("b", 0, 20.0)], [], "b"),
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


TEXT = b"".join(b"%0256d" % number for number in range(40))


def test_a_growing_chat_stays_where_it_began() -> None:
    pods = [pod(name) for name in "abcd"]
    first = affinity.choice(pods, affinity.blocks(TEXT[:1024]), TEXT[:256], 0.0)
    assert first is not None
    for turn in range(2, 40):
        text = TEXT[: 256 * turn]
        chosen = affinity.choice(pods, affinity.blocks(text), text[:256], 0.0)
        assert chosen is first
        chosen.prefixes.remember(affinity.blocks(text))


def test_two_gateways_place_a_cold_prompt_alike() -> None:
    for number in range(100):
        text = b"%0512d" % number
        one = affinity.choice([pod(n) for n in "abcd"], affinity.blocks(text), text[:256], 0.0)
        two = affinity.choice([pod(n) for n in "dcba"], affinity.blocks(text), text[:256], 0.0)
        assert one is not None
        assert two is not None
        assert one.address == two.address


@pytest.mark.parametrize(
    ("warm", "cold", "stays"),
    [
        pytest.param(40, 1, False, id="far more than its share"),
        pytest.param(120, 40, False, id="half as much again as the mean of many"),
        pytest.param(60, 40, True, id="within a quarter of it"),
        pytest.param(3, 0, True, id="by chance"),
    ],
)
def test_a_warm_cache_is_left_for_load(warm: int, cold: int, stays: bool) -> None:  # noqa: FBT001 - a column
    pods = [pod("a", warm), pod("b", cold)]
    prefix = affinity.blocks(TEXT)
    pods[0].prefixes.remember(prefix)
    assert (affinity.choice(pods, prefix, TEXT[:256], 0.0) is pods[0]) is stays


def test_the_longest_match_wins_and_the_less_loaded_of_equals() -> None:
    pods = [pod("a", 1), pod("b", 2), pod("c", 1), pod("d", 4), pod("e", 4)]
    for each, length in zip(pods, (3, 5, 5, 0, 0), strict=True):
        each.prefixes.remember(affinity.blocks(TEXT[: 256 * length]))
    chosen = affinity.choice(pods, affinity.blocks(TEXT), TEXT[:256], 0.0)
    assert chosen is pods[2]


def test_an_adapter_has_a_cache_of_its_own() -> None:
    assert affinity.blocks(TEXT, "tickets")[0] != affinity.blocks(TEXT)[0]


def test_a_pod_forgets_from_the_end_of_the_oldest_prompt() -> None:
    prefixes = Prefixes(capacity=10)
    prefixes.remember(affinity.blocks(TEXT[: 256 * 8], "old"))
    prefixes.remember(affinity.blocks(TEXT[: 256 * 5], "new"))
    assert prefixes.matched(affinity.blocks(TEXT, "new")) == 5
    assert prefixes.matched(affinity.blocks(TEXT, "old")) == 5
    assert len(prefixes) == 10


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
    found = resolve_for(TABLE, name, key(KEYS[rights])) or route.resolve(TABLE, name)
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


USAGES: list[tuple[str, bytes, int | None, bool, Usage]] = [
    (
        "a document",
        b'"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}',
        None,
        True,
        Usage(7, 3, "stop"),
    ),
    ("embeddings", b'"usage":{"prompt_tokens":7,"total_tokens":7}}', None, True, Usage(7, 0, None)),
    (
        "a stream with usage",
        b'"finish_reason":"length"}]}\n\ndata: {"usage": {"prompt_tokens": 7, "completion_tokens": 9}}',
        12,
        True,
        Usage(7, 9, "length"),
    ),
    ("a stream without", b'data: {"finish_reason":"stop"}\n\ndata: [DONE]\n\n', 12, True, Usage(None, 10, "stop")),
    ("a stream that was cut", b'data: {"x"', 5, False, Usage(None, 4, None)),
    ("a null usage", b'{"usage":null}', None, True, Usage(None, None, None)),
    ("an error", b'{"error":{}}', None, True, Usage(None, None, None)),
]


@pytest.mark.parametrize(
    ("tail", "events", "complete", "expected"), [u[1:] for u in USAGES], ids=[u[0] for u in USAGES]
)
def test_the_usage_of(tail: bytes, events: int | None, complete: bool, expected: Usage) -> None:  # noqa: FBT001
    found = usage(tail, events, complete=complete)
    told = (found.prompt, found.completion, found.finish_reason)
    assert told == (expected.prompt, expected.completion, expected.finish_reason)


def slice_of(*endpoints: dict[str, Any], owner: str = "support") -> dict[str, Any]:
    return {
        "metadata": {"name": "s", "namespace": "a", "labels": {"llmops.dev/deployment": owner}},
        "ports": [{"name": "metrics", "port": 1}, {"name": "http", "port": 8000}],
        "endpoints": list(endpoints),
    }


def llmd(**status: Any) -> dict[str, Any]:
    spec = {
        "model": {"servedName": "help"},
        "adapters": [{"name": "t"}],
        "gateway": {"holdSeconds": 5, "prefixAffinity": False},
    }
    return {"metadata": {"name": "support", "namespace": "a", "generation": 2}, "spec": spec, "status": status}


def condition(generation: int, reason: str, status: str = "False") -> dict[str, Any]:
    return {"type": "Ready", "status": status, "reason": reason, "message": "m", "observedGeneration": generation}


def test_models_are_what_the_cluster_says() -> None:
    seen = from_cluster(
        [llmd()],
        [
            slice_of(
                {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"name": "p"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": False}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": False, "terminating": True, "serving": True}},
                {"addresses": ["10.0.0.4"]},
            ),
            slice_of({"addresses": ["10.0.0.9"]}, owner="gone"),
        ],
    )
    pods = (Endpoint("10.0.0.1", 8000, "p"), Endpoint("10.0.0.2", 8000, ready=False), Endpoint("10.0.0.4", 8000))
    assert seen == [Model("a", "support", "help", ("t",), pods, hold_seconds=5, prefix_affinity=False)]


FAILURES = [
    ("a terminal reason", condition(2, "ModelNotFound"), "ModelNotFound: m"),
    ("one of an earlier generation", condition(1, "ModelNotFound"), None),
    ("one that time heals", condition(2, "Downloading"), None),
    ("one that is over", condition(2, "ModelNotFound", "True"), None),
]


@pytest.mark.parametrize(("given", "failure"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES])
def test_waiting_is_useless_after(given: dict[str, Any], failure: str | None) -> None:
    assert from_cluster([llmd(conditions=[given])], [])[0].failure == failure


BAD_ROUTES = [
    ("no models", {}, "a list `models`"),
    ("no name", {"models": [{}]}, r"models\[0\]: needs a `name`"),
    ("a typo", {"models": [{"name": "a", "endpoint": []}]}, "unknown field 'endpoint'"),
    ("no port", {"models": [{"name": "a", "endpoints": ["host"]}]}, "not host:port"),
]


@pytest.mark.parametrize(("document", "says"), [case[1:] for case in BAD_ROUTES], ids=[case[0] for case in BAD_ROUTES])
def test_a_routes_file_is_refused_for(document: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_routes(document)


def test_a_peek_of_a_form_has_no_document() -> None:
    seen = peek(form(("model", b"a")), b'multipart/form-data; boundary="xx"')
    assert (seen.model, seen.stream, seen.document) == ("a", False, None)
