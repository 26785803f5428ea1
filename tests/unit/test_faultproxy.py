"""The standing assertions of the fault proxy notice what they are for."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.faultproxy.assertions import Standing
from tests.faultproxy.calls import Call, Json, parsed
from tests.faultproxy.mutations import STRANGE, mutations

LEASE = "/apis/coordination.k8s.io/v1/namespaces/llmops-system/leases/llmops-operator?fieldManager=x"
SERVICE = "/api/v1/namespaces/team/services/m-engine"
OURS = "/apis/llmops.dev/v1alpha1/namespaces/team/llmdeployments/m"
SECRETS = "/api/v1/namespaces/team/secrets"


def sent(
    standing: Standing,
    process: str,
    method: str,
    target: str,
    body: Any = None,
    *,
    version: int = 0,
    status: int = 200,
) -> Call:
    """One request that the API server carried out, leaving the object at `version`."""
    call = parsed(process, method, target, json.dumps(body).encode() if body else b"")
    known = standing.before(call)
    call.status = status
    meta = {"name": call.name, "namespace": call.namespace, "resourceVersion": str(version)}
    standing.after(call, {"metadata": meta} if version else {}, known)
    return call


def led(process: str = "a") -> Standing:
    standing = Standing()
    sent(standing, process, "PUT", LEASE, {"spec": {"holderIdentity": process}})
    return standing


BROKEN: list[tuple[str, str, str, Any, str]] = [
    ("a delete of whatever has the name", "DELETE", SERVICE, {}, "without preconditions"),
    ("a delete of a collection", "DELETE", "/api/v1/namespaces/team/services?labelSelector=a", {}, "collection"),
    ("an anonymous write", "PATCH", SERVICE, {"spec": {}}, "without a field manager"),
    ("a write to the user's object", "PATCH", f"{OURS}?fieldManager=x", {"spec": {}}, "what the user wrote"),
    ("a spec within a status", "PATCH", f"{OURS}/status?fieldManager=x", {"spec": {}}, "what the user wrote"),
    ("a list of Secrets", "GET", SECRETS, None, "no business with Secrets"),
    ("a watch of Secrets", "GET", f"{SECRETS}?watch=true", None, "no business with Secrets"),
]


@pytest.mark.parametrize(
    ("method", "target", "body", "words"), [case[1:] for case in BROKEN], ids=[c[0] for c in BROKEN]
)
def test_a_broken_rule_is_noticed(method: str, target: str, body: Any, words: str) -> None:
    standing = led()
    sent(standing, "a", method, target, body)
    assert [words in violation for violation in standing.violations] == [True]


def test_a_proper_reconcile_breaks_nothing() -> None:
    standing = led()
    sent(standing, "a", "PATCH", f"{SERVICE}?fieldManager=x", {"spec": {}}, version=7)
    sent(standing, "a", "PATCH", f"{OURS}/status?fieldManager=x", {"status": {}}, version=8)
    sent(standing, "a", "DELETE", SERVICE, {"preconditions": {"uid": "u", "resourceVersion": "7"}})
    assert standing.violations == []


def test_a_write_by_a_former_leader_is_noticed() -> None:
    standing = led("a")
    sent(standing, "b", "PUT", LEASE, {"spec": {"holderIdentity": "b"}})
    sent(standing, "a", "PATCH", f"{SERVICE}?fieldManager=x", {"spec": {}})
    assert standing.violations == ["a: team: patch services/m-engine: a write, while the leader is b"]
    assert standing.too_late == 0


def test_a_former_leaders_write_that_the_api_server_refuses_for_its_version_does_no_harm() -> None:
    standing = led("a")
    sent(standing, "b", "PUT", LEASE, {"spec": {"holderIdentity": "b"}})
    sent(standing, "a", "PATCH", f"{SERVICE}?fieldManager=x", {"spec": {}}, status=409)
    assert (standing.violations, standing.too_late) == ([], 1)
    sent(standing, "a", "PATCH", f"{SERVICE}?fieldManager=x", {"spec": {}}, status=422)
    assert standing.violations == ["a: team: patch services/m-engine: a write, while the leader is b"]


def test_a_write_after_the_lease_was_given_back_is_noticed() -> None:
    standing = led("a")
    sent(standing, "a", "PUT", LEASE, {"spec": {"holderIdentity": ""}})
    sent(standing, "a", "PATCH", f"{SERVICE}?fieldManager=x", {"spec": {}})
    assert standing.violations == ["a: team: patch services/m-engine: a write, while the leader is nobody"]


def test_what_comes_after_the_death_of_its_process_is_a_leaders_and_what_the_next_one_writes_too_early_is_not() -> None:
    standing = led("a#1")
    sent(standing, "a#1", "PATCH", f"{SERVICE}?fieldManager=x", {"spec": {}})
    assert standing.violations == []
    sent(standing, "a#2", "PATCH", f"{SERVICE}?fieldManager=x", {"spec": {}})
    assert standing.violations == ["a: team: patch services/m-engine: a write, while the leader is a#1"]
    sent(standing, "a#2", "PUT", LEASE, {"spec": {"holderIdentity": "a#2"}})
    sent(standing, "a#1", "PATCH", f"{SERVICE}?fieldManager=x", {"spec": {}})
    assert len(standing.violations) == 2


def test_a_status_that_changes_nothing_is_noticed() -> None:
    standing = led()
    for _ in range(2):
        sent(standing, "a", "PATCH", f"{OURS}/status?fieldManager=x", {"status": {}}, version=8)
    assert standing.violations == ["a: team: patch llmdeployments/m/status: it changed nothing"]


def test_a_child_applied_in_vain_again_and_again_is_noticed() -> None:
    standing = led()
    for _ in range(3):
        sent(standing, "a", "PATCH", f"{SERVICE}?fieldManager=x", {"spec": {}}, version=8)
    assert standing.violations == ["a: team: patch services/m-engine: it changed nothing"]


def test_a_write_may_be_repeated_where_its_answer_was_lost() -> None:
    standing = led()
    standing.disturb("team")
    for _ in range(2):
        sent(standing, "a", "PATCH", f"{OURS}/status?fieldManager=x", {"status": {}}, version=8)
    assert standing.violations == []


def test_what_one_mutation_hurts_is_whole_in_the_next() -> None:
    before = copy.deepcopy(STRANGE)
    schema: Json = {"properties": {"spec": {"properties": {"x": {"type": "array", "items": {"type": "object"}}}}}}
    assert len(list(mutations("llmdeployments", schema, 3000, seed=1))) == 3000
    assert before == STRANGE
