"""Who reaches whom, read from the rendered policies by Kubernetes' rules for them.

Nothing here enforces them: that is the cluster's network plug-in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from llmops.api.llm_deployment import LLMDeployment
from llmops.config import Config
from llmops.desired import serving, weights
from tests.apiserver.operating import rendered_chart

Json = dict[str, Any]
HOME, TEAM = "llmops-system", "team-a"


@dataclass(frozen=True)
class Pod:
    """A pod as a policy sees it."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)


def matches(selector: Json | None, labels: dict[str, str]) -> bool:
    """A label selector with equality only, which is all that ours use; an empty one matches everything."""
    assert not (selector or {}).get("matchExpressions")
    return (selector or {}).get("matchLabels", {}).items() <= labels.items()


def is_peer(peer: Json, other: Pod, namespace: str) -> bool:
    """Whether an entry of `from` or `to` means the pod; without a namespaceSelector it means its own namespace."""
    if "namespaceSelector" in peer:
        here = matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        here = other.namespace == namespace
    return here and matches(peer.get("podSelector"), other.labels)


PEERS = {"Ingress": "from", "Egress": "to"}


def lets(direction: str, policies: list[Json], pod: Pod, other: Pod, port: int) -> bool:
    """Whether the policies that select the pod allow the direction; without any, all is allowed."""
    peers = PEERS[direction]
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], pod.labels)
    ]
    rules = [(p, rule) for p in selecting for rule in p["spec"].get(direction.lower()) or []]
    return not selecting or any(
        (peers not in rule or any(is_peer(peer, other, p["metadata"]["namespace"]) for peer in rule[peers]))
        and ("ports" not in rule or any(each["port"] == port for each in rule["ports"]))
        for p, rule in rules
    )


def reaches(policies: list[Json], source: Pod, target: Pod, port: int) -> bool:
    """Whether a connection passes the source's egress and the target's ingress."""
    return lets("Egress", policies, source, target, port) and lets("Ingress", policies, target, source, port)


@pytest.fixture(scope="module")
def policies() -> list[Json]:
    """Those of the chart, and of one model that the chart's own configuration makes."""
    documents = rendered_chart()
    (config,) = [
        Config.model_validate(yaml.safe_load(found["data"]["config.yaml"]))
        for found in documents
        if found["kind"] == "ConfigMap" and "config.yaml" in found["data"]
    ]
    model = {"source": "hf://org/model"}
    manifest = {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "m", "namespace": TEAM, "uid": "1"},
        "spec": {"model": model, "replicas": 1},
    }
    llm = LLMDeployment.from_manifest(manifest)
    children = serving.objects(llm, config, replicas=1, weights_ready=True, surge=True)
    assert any(weights.job_name(llm) == child["metadata"]["name"] for child in children)
    return [found for found in [*documents, *children] if found["kind"] == "NetworkPolicy"]


def ours(component: str) -> Pod:
    (labels,) = [
        found["spec"]["template"]["metadata"]["labels"]
        for found in rendered_chart()
        if found["kind"] == "Deployment" and found["metadata"]["name"].endswith(component)
    ]
    return Pod(HOME, labels)


def workload(component: str, name: str = "m") -> Pod:
    return Pod(TEAM, {"llmops.dev/deployment": name, "app.kubernetes.io/component": component})


OPERATOR, GATEWAY = ours("operator"), ours("gateway")
ENGINE, OTHER_ENGINE, FETCH = workload("engine"), workload("engine", "other"), workload("weights")
CLIENT, NEIGHBOUR, PROMETHEUS = Pod("shop"), Pod(TEAM), Pod("monitoring")
IMPOSTOR = Pod("shop", GATEWAY.labels)
INTERNET = Pod("outside")
CASES: list[tuple[str, Pod, Pod, int, bool]] = [
    ("a client asks the gateway", CLIENT, GATEWAY, 8080, True),
    ("a client reads the gateway's loads", CLIENT, GATEWAY, 9090, False),
    ("the operator reads the gateway's loads", OPERATOR, GATEWAY, 9090, True),
    ("Prometheus scrapes the gateway", PROMETHEUS, GATEWAY, 9090, True),
    ("Prometheus scrapes the operator", PROMETHEUS, OPERATOR, 8081, True),
    ("a client reads the operator's metrics", CLIENT, OPERATOR, 8081, False),
    ("the gateway asks an engine", GATEWAY, ENGINE, 8000, True),
    ("Prometheus scrapes an engine", PROMETHEUS, ENGINE, 8000, True),
    ("a client asks an engine past the gateway", CLIENT, ENGINE, 8000, False),
    ("a neighbour asks an engine past the gateway", NEIGHBOUR, ENGINE, 8000, False),
    ("a pod with the gateway's labels elsewhere", IMPOSTOR, ENGINE, 8000, False),
    ("one engine asks another", OTHER_ENGINE, ENGINE, 8000, False),
    ("the gateway reaches another port of an engine", GATEWAY, ENGINE, 22, False),
    ("an engine calls out", ENGINE, INTERNET, 443, False),
    ("an engine calls its neighbour", ENGINE, NEIGHBOUR, 80, False),
    ("a download calls out", FETCH, INTERNET, 443, True),
]


@pytest.mark.parametrize(("source", "target", "port", "allowed"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_who_reaches_whom(policies: list[Json], source: Pod, target: Pod, port: int, *, allowed: bool) -> None:
    assert reaches(policies, source, target, port) is allowed
