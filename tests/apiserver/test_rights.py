"""What the chart lets its accounts do is what they do: asked of the API server, and read from its audit log."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from hack.cluster.controlplane import LOOPBACK, ControlPlane, free_port
from hack.waiting import eventually
from llmops.api.drift_state import Memories
from llmops.judge.drift.baseline import Categories
from llmops.judge.drift.threshold import frozen
from tests.apiserver.operating import ROOT, SYSTEM, Operator, ProxiedPlane, audited_plane, chart, groups
from tests.apiserver.points import BACKUP, WAIT_SECONDS, Space, point

Json = dict[str, Any]
TABLE: dict[str, dict[str, dict[str, list[str]]]] = yaml.safe_load((Path(__file__).parent / "rights.yaml").read_text())
PARTS = ("served", "home", "cluster")
SERVED, OTHER = "team-a", "team-c"
NAMESPACED = "namespaces={team-a,team-b}"
IMAGE, HUB = {"source": "oci://models/tiny:1"}, {"source": "hf://org/one"}
KEY = "llm-" + "k" * 40
KEY_SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "everything", "namespace": SYSTEM, "labels": {"llmops.dev/api-key": "true"}},
    "stringData": {"hash": hashlib.sha256(KEY.encode()).hexdigest(), "tenant": "all", "models": "*"},
}


def definition(plural: str, kind: str, group: str) -> Json:
    """A kind of somebody else's operator, as far as an API server must know it."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    }
    names = {"plural": plural, "kind": kind}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    }


OPTIONAL = [
    definition("leaderworkersets", "LeaderWorkerSet", "leaderworkerset.x-k8s.io"),
    definition("prometheusrules", "PrometheusRule", "monitoring.coreos.com"),
]


def account(component: str, release: str) -> str:
    return f"system:serviceaccount:{SYSTEM}:{release}-{component}"


@pytest.fixture(scope="module")
def plane(directory: Path) -> Iterator[ProxiedPlane]:
    """The chart twice: for the whole cluster as `llmops`, for two namespaces as `team-llmops`."""
    with audited_plane(directory) as plane:
        for name in (SERVED, "team-b", OTHER):
            plane.kubectl("create", "namespace", name)
        for kind in OPTIONAL:
            plane.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(kind))
        for release, settings in (("llmops", ""), ("team", NAMESPACED)):
            rendered = chart("--set", "gateway.requireKeys=true", "--set", settings, release=release)
            plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=rendered)
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(KEY_SECRET))
        yield plane


def told(plane: ControlPlane, who: str, namespace: str) -> dict[str, set[str]]:
    """What the API server says somebody may do in a namespace: verbs by `resource.group[/subresource][=name]`."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    roles = [f"--as={who}", *(f"--as-group={group}" for group in groups(who))]
    answer = plane.kubectl("create", "--validate=false", "-o", "json", "-f", "-", *roles, stdin=json.dumps(review))
    found: dict[str, set[str]] = defaultdict(set)
    for rule in json.loads(answer)["status"]["resourceRules"]:
        for group in rule.get("apiGroups", [""]):
            for resource in rule["resources"]:
                plural, _, sub = resource.partition("/")
                path = "/".join(filter(None, (f"{plural}.{group}".rstrip("."), sub)))
                for name in rule.get("resourceNames") or [""]:
                    found[f"{path}={name}" if name else path] |= set(rule["verbs"])
    return dict(found)


def granted(plane: ControlPlane, who: str, namespace: str) -> dict[str, list[str]]:
    """Without what every account may do."""
    everybody = told(plane, "system:serviceaccount:default:nobody", namespace)
    mine = told(plane, who, namespace)
    return {path: sorted(verbs - everybody.get(path, set())) for path, verbs in mine.items() if path not in everybody}


def table(component: str, *parts: str) -> dict[str, list[str]]:
    return {path: sorted(verbs) for part in parts for path, verbs in TABLE[component][part].items()}


WHERE = [
    ("a served namespace", "llmops", SERVED, ("served", "cluster")),
    ("the chart's own namespace", "llmops", SYSTEM, ("served", "cluster", "home")),
    ("namespaced: a served namespace", "team-llmops", SERVED, ("served",)),
    ("namespaced: the other served namespace", "team-llmops", "team-b", ("served",)),
    ("namespaced: the chart's own namespace", "team-llmops", SYSTEM, ("home",)),
    ("namespaced: any other namespace", "team-llmops", OTHER, ()),
]


@pytest.mark.parametrize("component", TABLE)
@pytest.mark.parametrize(("release", "namespace", "parts"), [w[1:] for w in WHERE], ids=[w[0] for w in WHERE])
def test_rights_are_those_of_the_table(
    plane: ControlPlane, component: str, release: str, namespace: str, parts: tuple[str, ...]
) -> None:
    assert granted(plane, account(component, release), namespace) == table(component, *parts)


@pytest.mark.parametrize("component", TABLE)
def test_the_table_holds_nothing_that_makes_a_pod_an_administrator(component: str) -> None:
    paths = {path for part in PARTS for path in TABLE[component][part]}
    verbs = {
        verb for part in ("served", "home", "cluster") for each in TABLE[component][part].values() for verb in each
    }
    assert not verbs & {"*", "impersonate", "escalate", "bind", "deletecollection", "approve", "sign"}
    assert not any(path.startswith(("*", "roles", "clusterroles", "serviceaccounts", "pods/exec")) for path in paths)
    assert not any("admissionregistration" in path or "apiextensions" in path for path in paths)
    assert {path for path in paths if path.startswith("secrets")} <= ({"secrets"} if component == "gateway" else set())


@contextmanager
def gateway(plane: ControlPlane, directory: Path, release: str, *flags: str) -> Iterator[str]:
    """A gateway process with the account's rights; the address of its internal port."""
    who = account("gateway", release)
    kubeconfig = plane.kubeconfig_for(who, groups(who))
    port, internal = free_port(LOOPBACK), free_port(LOOPBACK)
    ports = ["--host=127.0.0.1", f"--port={port}", f"--metrics-port={internal}", "--workers=1"]
    command = [sys.executable, "-m", "llmops_serving.gateway", f"--kubeconfig={kubeconfig}", *ports, *flags]
    path = os.pathsep.join(str(ROOT / folder) for folder in ("operator", "serving"))
    with (directory / f"gateway-{release}.log").open("ab") as log:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def models(url: str) -> set[str]:
    try:
        answer = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False)
    except httpx.TransportError:
        return set()
    return {entry["id"] for entry in answer.json().get("data", [])}


def apply(plane: ControlPlane, namespace: str, name: str, **spec: Any) -> None:
    meta = {"name": name, "namespace": namespace}
    manifest = {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": spec}
    command = ("apply", "--server-side", "--force-conflicts", "--field-manager=user", "-f", "-")
    plane.kubectl(*command, stdin=json.dumps(manifest))


def reasons(plane: ControlPlane, namespace: str, kind: str, name: str) -> dict[str, str]:
    live = json.loads(plane.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
    given = live.get("status", {}).get("conditions", [])
    return {
        each["type"]: each["reason"] for each in given if each["observedGeneration"] == live["metadata"]["generation"]
    }


def children(plane: ControlPlane, namespace: str, kinds: str) -> list[str]:
    return plane.kubectl("get", kinds, "-n", namespace, "-o", "name").split()


def pod_status(plane: ControlPlane, namespace: str, label: str, status: Json) -> None:
    """What a scheduler and a kubelet would say: neither runs here."""
    pods = eventually(lambda: plane.kubectl("get", "pods", "-n", namespace, "-l", label, "-o", "name").split(), "a pod")
    patch = json.dumps({"status": status})
    plane.kubectl("patch", pods[0], "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def learned(plane: ControlPlane, namespace: str, name: str) -> None:
    """What an operator with a Prometheus would have added after a week: a baseline."""
    stored = json.loads(plane.kubectl("get", "configmap", name, "-n", namespace, "-o", "json"))
    memory = Memories.model_validate_json(stored["data"]["memory.json"]).signals["FinishReason"]
    reasons = [Categories({"stop": 930.0, "length": 70.0})] * 10
    made = frozen("FinishReason", reasons, key=memory.key, signals=1, at=memory.since)
    baseline = made.model_copy(update={"window": "1h", "learned_from": memory.learn_from})
    data = {"FinishReason.json": baseline.model_dump_json(by_alias=True)}
    plane.kubectl("patch", "configmap", name, "-n", namespace, "--type=merge", "-p", json.dumps({"data": data}))


def watched(plane: ControlPlane, namespace: str) -> None:
    """A life of drift: what is remembered, the rules that follow once traffic was learned, and nothing afterwards."""
    memory = ("get", "configmap,prometheusrule", "-n", namespace, "-l", "llmops.dev/deployment=sees", "-o", "name")
    apply(plane, namespace, "sees", model=IMAGE, replicas=0, drift={"signals": ["FinishReason"]})
    eventually(lambda: plane.kubectl(*memory).split() == ["configmap/sees-drift"], "a ConfigMap")
    learned(plane, namespace, "sees-drift")
    rules = ("get", "prometheusrule", "sees-drift-rules", "-n", namespace, "--ignore-not-found", "-o", "name")
    eventually(lambda: plane.kubectl(*rules), "rules for the Prometheus operator")
    apply(plane, namespace, "sees", model=IMAGE, replicas=0, drift={"signals": ["FinishReason"], "window": "6h"})
    eventually(lambda: not plane.kubectl(*rules), "no rules: another window learns another bar")
    apply(plane, namespace, "sees", model=IMAGE, replicas=0)
    eventually(lambda: not plane.kubectl(*memory), "no ConfigMap")


def everything(plane: ControlPlane, namespace: str) -> None:
    """A life that needs each right once."""
    watched(plane, namespace)
    # A size that is changed while the files of a new spec are fetched, and files that are not wanted any more.
    apply(plane, namespace, "moves", model=IMAGE, replicas=0)
    eventually(lambda: reasons(plane, namespace, "llmd", "moves").get("Ready") == "ScaledToZero", "its engines")
    apply(plane, namespace, "moves", model=HUB, replicas=1)
    scaled = ("get", "deployment", "moves-engine", "-n", namespace, "-o", "jsonpath={.spec.replicas}")
    eventually(lambda: plane.kubectl(*scaled) == "1", "the old engines to be resized")
    pod_status(plane, namespace, "app.kubernetes.io/component=weights", {"phase": "Running"})
    apply(plane, namespace, "files", model={"source": "hf://org/first"}, replicas=0)
    first = eventually(
        lambda: [c for c in children(plane, namespace, "job,pvc") if "/files-" in c], "files to be fetched"
    )
    apply(plane, namespace, "files", model={"source": "hf://org/second"}, replicas=0)
    eventually(lambda: not set(first) & set(children(plane, namespace, "job,pvc")), "the first files to be given up")
    # One that is backed up, until it is not.
    kept = Space(plane, namespace)
    kept.deploy(BACKUP)
    eventually(lambda: kept.names("cronjobs"), "the schedule", WAIT_SECONDS)
    due = datetime(2026, 11, 20, 3, tzinfo=UTC)
    made = point("2026-11-20T03:00:00Z")
    kept.finish(kept.run("support-backup", due), made)
    eventually(lambda: kept.names("mbak"), "the record of the point", WAIT_SECONDS)
    eventually(lambda: "support-collect" in kept.names("cronjobs"), "what drops points", WAIT_SECONDS)
    kept.finish(kept.run("support-collect", due), {"outcome": "Complete", "message": "", "dropped": [made["ref"]]})
    eventually(lambda: not kept.names("mbak"), "the record to go with its point", WAIT_SECONDS)
    kept.deploy(None)
    eventually(lambda: not kept.names("cronjobs"), "no schedule", WAIT_SECONDS)
    # One that is spread over nodes, and no longer is.
    wide = {"accelerator": {"profile": "gpu"}, "engine": {"pipelineParallel": 2}, "model": IMAGE, "replicas": 1}
    apply(plane, namespace, "wide", **wide)
    eventually(lambda: children(plane, namespace, "leaderworkersets"), "a LeaderWorkerSet")
    apply(plane, namespace, "wide", **{**wide, "engine": {}})
    eventually(lambda: not children(plane, namespace, "leaderworkersets"), "no LeaderWorkerSet")
    lacking = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: 1 Insufficient nvidia.com/gpu."}
    pod_status(plane, namespace, "llmops.dev/deployment=wide", {"conditions": [lacking]})
    eventually(lambda: reasons(plane, namespace, "llmd", "wide").get("Ready") == "WaitingForGPU", "WaitingForGPU")
    # What a pod says it serves, and no Job of ours has found.
    its = ("pods", "-n", namespace, "-l", "llmops.dev/deployment=wide")
    plane.kubectl("annotate", *its, "llmops.dev/adapters=anything", "llmops.dev/adapters-record={}")
    announced = "jsonpath={.items[*].metadata.annotations.llmops\\.dev/adapters}"
    eventually(lambda: not plane.kubectl("get", *its, "-o", announced).strip(), "no announcement")
    apply(plane, namespace, "wide", **wide)
    eventually(lambda: "deployment.apps/wide-engine" not in children(plane, namespace, "deployment"), "no Deployment")
    data = {"source": "configMap://rows/rows.jsonl"}
    spec = {"baseModel": {"source": "oci://models/tiny:1"}, "dataset": data}
    meta = {"name": "tune", "namespace": namespace}
    job = {"apiVersion": "llmops.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta, "spec": spec}
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(job))
    eventually(lambda: "DatasetValid" in reasons(plane, namespace, "finetunejob", "tune"), "the job's status")


def asked(directory: Path, who: str) -> tuple[dict[str, set[str]], list[str]]:
    """Verbs by resource that an account has used so far, and the requests that were refused for want of a right."""
    used: dict[str, set[str]] = defaultdict(set)
    refused = []
    for line in (directory / "audit.log").read_text().splitlines():
        event = json.loads(line)
        if event["user"]["username"] != who or "objectRef" not in event:
            continue
        where, code = event["objectRef"], event["responseStatus"].get("code")
        path = f"{where['resource']}.{where.get('apiGroup', '')}".rstrip(".")
        path = "/".join(filter(None, (path, where.get("subresource"))))
        if code == 403:
            refused.append(f"{event['verb']} {path} in {where.get('namespace')}")
        used[path].add(event["verb"])
        if event["verb"] == "patch" and code == 201:
            used[path].add("create")  # server-side apply of what did not exist needs both
    return dict(used), refused


def unnamed(rights: dict[str, list[str]]) -> dict[str, set[str]]:
    merged: dict[str, set[str]] = defaultdict(set)
    for path, verbs in rights.items():
        merged[path.partition("=")[0]] |= set(verbs)
    return dict(merged)


LIVES: dict[str, tuple[str, list[str]]] = {
    "the whole cluster": ("llmops", []),
    "two namespaces": ("team-llmops", [SERVED, "team-b"]),
}


@pytest.mark.parametrize(("release", "only"), LIVES.values(), ids=LIVES)
def test_every_right_is_used_and_nothing_else_is_asked_for(
    plane: ProxiedPlane, directory: Path, release: str, only: list[str]
) -> None:
    who = {component: account(component, release) for component in TABLE}
    space = SERVED if only else "anywhere"
    if not only:
        plane.kubectl("create", "namespace", space)
    second, foreign = f"second-of-{release}", f"foreign-to-{release}"
    plane.kubectl("delete", "lease", "--all", "-n", SYSTEM)  # so that this one is created, too
    flags = ["--require-keys", f"--key-namespace={SYSTEM}", *(f"--namespace={name}" for name in only)]
    flags.append(f"--peer-service={release}-gateway-internal")
    settings = {"namespaces": only}
    operator = Operator(
        plane, directory, name=release, port=free_port(LOOPBACK), account=who["operator"], settings=settings
    )
    try:
        with gateway(plane, directory, release, *flags) as url:
            everything(plane, space)
            apply(plane, "team-b", second, model=IMAGE, replicas=0)
            apply(plane, OTHER, foreign, model=IMAGE, replicas=0)
            eventually(lambda: reasons(plane, "team-b", "llmd", second).get("Ready") == "ScaledToZero", "the second")
            seen = {"moves", "wide", second, *(() if only else (foreign,))}
            eventually(lambda: models(url) >= seen, f"the gateway to serve {seen}")
            assert not only or foreign not in models(url)
        assert not only or reasons(plane, OTHER, "llmd", foreign) == {}
    finally:
        assert operator.stop() == 0
    for component, name in who.items():
        used, refused = asked(directory, name)
        assert refused == []
        reserved = TABLE[component]["reserved"]
        allowed = unnamed(table(component, "served", "home", *(() if only else ("cluster",))))
        assert used == {path: verbs - set(reserved.get(path, {})) for path, verbs in allowed.items()}
