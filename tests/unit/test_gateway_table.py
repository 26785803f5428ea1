"""What the cluster and a routes file say about models and pods."""

from __future__ import annotations

from typing import Any

import pytest

from llmops_serving.gateway.table import Endpoint, Model, from_cluster, from_routes, located


def pod(**changes: Any) -> dict[str, Any]:
    """A ready engine pod; `changes` by path, as `status__podIP`."""
    ports = [{"name": "metrics", "containerPort": 1}, {"name": "http", "containerPort": 8000}]
    found: dict[str, Any] = {
        "metadata": {"name": "p", "namespace": "a", "labels": {"llmops.dev/deployment": "support"}},
        "spec": {"containers": [{"name": "sidecar"}, {"name": "engine", "ports": ports}]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}], "phase": "Running"},
    }
    for path, value in changes.items():
        part, field = path.split("__")
        found[part] = {**found[part], field: value}
    return found


NONE: frozenset[str] = frozenset()
PODS: list[tuple[str, dict[str, Any], Endpoint | None]] = [
    ("is asked when it is ready", pod(), Endpoint("10.0.0.1", 8000, "p", adapters=NONE)),
    (
        "is known from the moment it has an address",
        pod(status__conditions=[], status__phase="Pending"),
        Endpoint("10.0.0.1", 8000, "p", ready=False, adapters=NONE),
    ),
    (
        "is not ready any more when it says so",
        pod(status__conditions=[{"type": "Ready", "status": "False"}]),
        Endpoint("10.0.0.1", 8000, "p", ready=False, adapters=NONE),
    ),
    (
        "serves the adapters it names",
        pod(metadata__annotations={"llmops.dev/adapters": "mails,tickets"}),
        Endpoint("10.0.0.1", 8000, "p", adapters=frozenset({"mails", "tickets"})),
    ),
    ("without an address is nowhere", pod(status__podIP=""), None),
    ("on its way out is left alone at once", pod(metadata__deletionTimestamp="2026-01-01T00:00:00Z"), None),
    ("that was evicted is gone", pod(status__phase="Failed"), None),
    ("of a replica's second node serves nothing", pod(spec__containers=[{"name": "engine"}]), None),
    ("of nobody is nobody's", pod(metadata__labels={}), None),
]


@pytest.mark.parametrize(("found", "endpoint"), [case[1:] for case in PODS], ids=[case[0] for case in PODS])
def test_a_pod(found: dict[str, Any], endpoint: Endpoint | None) -> None:
    assert located(found) == (None if endpoint is None else ("a/support", endpoint))


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
    pods = (Endpoint("10.0.0.1", 8000, "p"), Endpoint("10.0.0.2", 8000, "q", ready=False))
    seen = from_cluster([llmd()], [*(("a/support", pod) for pod in pods), ("a/gone", Endpoint("10.0.0.9", 8000, "r"))])
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
