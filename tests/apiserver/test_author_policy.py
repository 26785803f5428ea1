"""What an author may not do himself, his objects may not do for him: the chart's admission policy, on a real server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually
from tests.apiserver.conftest import client_of
from tests.apiserver.operating import ACCOUNT, chart

Json = dict[str, Any]
SPACE = "lending"
OURS = {
    "apiGroups": ["llmops.dev"],
    "resources": ["llmdeployments", "finetunejobs"],
    "verbs": ["get", "create", "update", "patch"],
}


def rule(group: str, resource: str, verb: str, *names: str) -> Json:
    given = {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
    return given | ({"resourceNames": list(names)} if names else {})


# Every author may write objects of ours. What else he may:
AUTHORS: dict[str, list[Json]] = {
    "nothing": [],
    "pods": [rule("", "pods", "create")],
    "the-secret": [rule("", "secrets", "get", "hub")],
    "another-secret": [rule("", "secrets", "get", "other")],
    "the-claim": [rule("", "persistentvolumeclaims", "use", "models")],
    "get-the-claim": [rule("", "persistentvolumeclaims", "get", "models")],
    "the-rows": [rule("", "configmaps", "get", "rows")],
    "the-class": [rule("scheduling.k8s.io", "priorityclasses", "use", "production")],
}


@pytest.fixture(scope="module")
def policed() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        plane.kubectl("create", "namespace", "llmops-system")
        plane.kubectl("create", "namespace", SPACE)
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=chart())
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        for author, more in AUTHORS.items():
            plane.kubectl("apply", "-f", "-", stdin=json.dumps(role(author, more)))
        # The policy is in force a moment after it is stored.
        eventually(lambda: refusal(plane, "nothing", deployment(secret="hub")) or None, "the policy", seconds=60)
        yield plane


def role(author: str, more: list[Json]) -> Json:
    api = "rbac.authorization.k8s.io/v1"
    subject = {"kind": "User", "name": author, "apiGroup": "rbac.authorization.k8s.io"}
    # A PriorityClass has no namespace: the right to use one is given cluster-wide.
    meta = {"name": author}
    granted = {"apiVersion": api, "kind": "ClusterRole", "metadata": meta, "rules": [OURS, *more]}
    cluster_wide = any(each["resources"] == ["priorityclasses"] for each in more)
    binding = {
        "apiVersion": api,
        "kind": "ClusterRoleBinding" if cluster_wide else "RoleBinding",
        "metadata": meta | ({} if cluster_wide else {"namespace": SPACE}),
        "roleRef": {"kind": "ClusterRole", "name": author, "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [subject],
    }
    return {"apiVersion": "v1", "kind": "List", "items": [granted, binding]}


def refusal(plane: ControlPlane, author: str, manifest: Json) -> str:
    """Why the API server does not take it from this author; empty when it would."""
    plural = manifest["kind"].lower() + "s"
    path = f"/apis/llmops.dev/v1alpha1/namespaces/{SPACE}/{plural}?dryRun=All"
    with client_of(plane.kubeconfig) as client:
        answer = client.post(path, json=manifest, headers={"Impersonate-User": author})
    return "" if answer.is_success else str(answer.json()["message"])


def deployment(source: str = "hf://org/model", secret: str = "", name: str = "m", **spec: Any) -> Json:
    model: Json = {"source": source} | ({"secretRef": {"name": secret}} if secret else {})
    meta = {"name": name, "namespace": SPACE}
    wanted = {"model": model, "replicas": 1, **spec}
    return {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": wanted}


def job(base: Json | None = None, **dataset: Any) -> Json:
    spec = {"baseModel": base or {"source": "hf://org/model"}, "dataset": {"source": "s3://bucket/rows", **dataset}}
    meta = {"name": "j", "namespace": SPACE}
    return {"apiVersion": "llmops.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta, "spec": spec}


HUB = {"name": "hub"}
CASES: list[tuple[str, Json, set[str], str]] = [
    ("nothing of anybody's", deployment(), set(AUTHORS), ""),
    ("a Secret", deployment(secret="hub"), {"pods", "the-secret"}, "Secret hub"),
    ("a volume", deployment("pvc://models/llama"), {"pods", "the-claim"}, "volume claim models"),
    ("a whole volume", deployment("pvc://models"), {"pods", "the-claim"}, "volume claim models"),
    ("a priority", deployment(pod={"priorityClassName": "production"}), {"pods", "the-class"}, "production"),
    ("a program of his own", deployment(engine={"image": "example.com/own:1"}), {"pods"}, "spec.engine.image"),
    ("a label that others select by", deployment(pod={"labels": {"role": "db"}}), {"pods"}, "spec.pod.labels"),
    (
        "a taint of special nodes",
        deployment(pod={"tolerations": [{"operator": "Exists"}]}),
        {"pods"},
        "spec.pod.tolerations",
    ),
    ("a node of his choice", deployment(pod={"nodeSelector": {"node": "a"}}), {"pods"}, "spec.pod.nodeSelector"),
    (
        "more memory, and time to end",
        deployment(pod={"resources": {"requests": {"memory": "1Gi"}}, "terminationGracePeriodSeconds": 5}),
        set(AUTHORS),
        "",
    ),
    ("rows of a bucket", job(), set(AUTHORS), ""),
    ("a Secret for rows", job(secretRef=HUB), {"pods", "the-secret"}, "Secret hub"),
    (
        "a Secret for the base model",
        job({"source": "hf://o/m", "secretRef": HUB}),
        {"pods", "the-secret"},
        "Secret hub",
    ),
    ("rows of a volume", job(source="pvc://models/rows"), {"pods", "the-claim"}, "volume claim models"),
    ("a base model of a volume", job({"source": "pvc://models"}), {"pods", "the-claim"}, "volume claim models"),
    (
        "a Secret and a place for restore points",
        deployment(backup={"target": "s3://backups/a", "secretRef": HUB}),
        {"pods", "the-secret"},
        "Secret hub",
    ),
    (
        "a volume for restore points",
        deployment(backup={"target": "pvc://models/a", "secretRef": {"name": "hub"}}),
        {"pods"},
        "",
    ),
    (
        "rows to judge by, of a volume",
        {**job(), "spec": {**job()["spec"], "evaluation": {"dataset": "pvc://models/test.jsonl"}}},
        {"pods", "the-claim"},
        "volume claim models",
    ),
    ("rows of a ConfigMap", job(source="configMap://rows/a.jsonl"), {"pods", "the-rows"}, "ConfigMap rows"),
]


@pytest.mark.parametrize("author", AUTHORS)
@pytest.mark.parametrize(("manifest", "allowed", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_an_author_lends_only_what_he_has(
    policed: ControlPlane, author: str, manifest: Json, allowed: set[str], words: str
) -> None:
    said = refusal(policed, author, manifest)
    if author in allowed:
        assert said == ""
    else:
        assert words in said
        assert "ask for the" in said


def test_a_new_source_for_an_old_secret_is_refused_and_a_label_is_not(policed: ControlPlane) -> None:
    policed.kubectl("create", "-f", "-", stdin=json.dumps(deployment(secret="hub", name="owned")))
    policed.kubectl("label", "llmd/owned", "-n", SPACE, "team=a", "--as=nothing")
    patch = json.dumps({"spec": {"model": {"source": "https://elsewhere.example.com/collect/"}}})
    with pytest.raises(subprocess.CalledProcessError) as refused:
        policed.kubectl("patch", "llmd/owned", "-n", SPACE, "--type=merge", "-p", patch, "--as=nothing")
    assert "Secret hub" in refused.value.stderr


def test_the_operator_copies_what_an_author_was_allowed(policed: ControlPlane) -> None:
    policed.kubectl("create", "rolebinding", "operator", "--clusterrole=nothing", f"--user={ACCOUNT}", "-n", SPACE)
    assert refusal(policed, ACCOUNT, job(secretRef=HUB)) == ""


def test_the_policy_has_no_mistyped_expression(policed: ControlPlane) -> None:
    live = json.loads(policed.kubectl("get", "validatingadmissionpolicies", "llmops-authors", "-o", "json"))
    assert "expressionWarnings" not in live.get("status", {}).get("typeChecking", {})


def test_a_namespaced_installation_polices_its_namespaces() -> None:
    documents = list(yaml.safe_load_all(chart("--set", "namespaces={team-a,team-b}")))
    (binding,) = [found for found in documents if found["kind"] == "ValidatingAdmissionPolicyBinding"]
    (chosen,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert (chosen["operator"], chosen["values"]) == ("In", ["team-a", "team-b"])
