"""What goes wrong in a user's life: which reason and sentence he is shown, and that his other model is left alone.

The operator and the API server are real; what a kubelet, a scheduler or a weights Job would say is written for them, in
the words that the tests of those parts get from the real ones. `docs/troubleshooting.md` is this table for readers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.controlplane import LOOPBACK, ControlPlane, free_port
from hack.waiting import eventually
from tests.apiserver.operating import Operator, ProxiedPlane, audited_plane, own_plane
from tests.faultproxy.faults import Fault

Json = dict[str, Any]
HUB, IMAGE = "hf://org/model", "oci://models/tiny:1"
SECONDS = 180


@dataclass(frozen=True)
class Case:
    """One fault: the source, what is said of the pod, and what the user sees."""

    source: str
    said: Json
    reason: str
    words: str
    profile: str = "cpu"


def ended(outcome: str, message: str, code: int = 40) -> Json:
    """A weights pod that ended as `llmops_serving.jobs.weights` ends."""
    said = {"exitCode": code, "message": json.dumps({"outcome": outcome, "message": message}), "reason": "Error"}
    return container("fetch", {"terminated": said}, phase="Failed")


def container(name: str, state: Json, *, phase: str = "Running", restarts: int = 0, **more: Any) -> Json:
    status = {"name": name, "image": "engine:1", "imageID": "i", "ready": False, "restartCount": restarts}
    return {"phase": phase, "containerStatuses": [{**status, "state": state, **more}]}


def crashed(message: str, code: int, reason: str = "Error") -> Json:
    last = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return container("engine", {"waiting": {"reason": "CrashLoopBackOff"}}, restarts=3, lastState=last)


def unplaced(message: str) -> Json:
    return {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
    }


PULL = container("engine", {"waiting": {"reason": "ErrImagePull", "message": "no such manifest"}}, phase="Pending")
CASES = {
    "unknown model": Case(HUB, ended("ModelNotFound", "The hub has no repository org/model."), "ModelNotFound", "hub"),
    "private model without a token": Case(
        HUB, ended("ModelAuthFailed", "The hub asks for a token."), "ModelAuthFailed", "token"
    ),
    "throttled hub": Case(
        HUB, ended("SourceThrottled", "The hub answers 429.", 75), "SourceThrottled", "It is tried again"
    ),
    "checksum mismatch": Case(
        HUB, ended("ChecksumMismatch", "model.safetensors differs."), "ChecksumMismatch", "model.safetensors"
    ),
    "disk full": Case(HUB, ended("DiskFull", "20 GiB are needed, 10 GiB are free."), "DiskFull", "20 GiB"),
    "image that does not exist": Case(IMAGE, PULL, "ImagePullFailed", "engine:1"),
    "wrong engine argument": Case(
        IMAGE, crashed("api_server.py: error: unrecognized arguments: --nope", 2), "EngineArgsInvalid", "--nope"
    ),
    "GPU that no node has": Case(
        IMAGE, unplaced("0/1 nodes: 1 Insufficient nvidia.com/gpu."), "WaitingForGPU", "no node of this cluster", "gpu"
    ),
    "engine out of host memory": Case(IMAGE, crashed("", 137, "OOMKilled"), "OutOfMemory", "limits.memory"),
    "engine out of accelerator memory": Case(
        IMAGE, crashed("torch.OutOfMemoryError: CUDA out of memory.", 1), "OutOfMemory", "maxModelLen"
    ),
    "engine that is still loading": Case(
        IMAGE, container("engine", {"running": {"startedAt": None}}), "LoadingWeights", "loading the weights"
    ),
    "engine that never becomes healthy": Case(IMAGE, crashed("", 137), "CrashLooping", "health check did not succeed"),
}


plane = own_plane(audited_plane)


@pytest.fixture(scope="module")
def operator(plane: ProxiedPlane, directory: Path) -> Iterator[list[Operator]]:
    """The operator's processes, the last of which runs: one that ends is followed by another, as a kubelet does it."""
    operators = [Operator(plane, directory, port=free_port(LOOPBACK))]
    yield operators
    assert operators[-1].stop() == 0
    assert b"reconcile failed" not in b"".join(each.log.read_bytes() for each in operators)


@pytest.fixture
def namespace(plane: ProxiedPlane, namespace: str) -> str:
    """One where another model serves already."""
    apply(plane, namespace, "neighbour", IMAGE)
    serve(plane, namespace, "neighbour")
    return namespace


def apply(plane: ControlPlane, namespace: str, name: str, source: str, **spec: Any) -> None:
    meta = {"name": name, "namespace": namespace}
    wanted = {"model": {"source": source}, "replicas": 1, **spec}
    manifest = {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": wanted}
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(manifest))


def tell(plane: ControlPlane, namespace: str, labels: str, status: Json) -> None:
    """What a kubelet or a scheduler says of the newest pod."""
    selected = ("get", "pods", "-n", namespace, "-l", labels, "-o", "name", "--sort-by=.metadata.creationTimestamp")
    pod = eventually(lambda: plane.kubectl(*selected).split(), f"a pod of {labels}", seconds=SECONDS)[-1]
    patch = json.dumps({"status": status})
    plane.kubectl("patch", pod, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def of(name: str, component: str) -> str:
    return f"llmops.dev/deployment={name},app.kubernetes.io/component={component}"


def serve(plane: ControlPlane, namespace: str, name: str) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
    tell(plane, namespace, of(name, "engine"), {"phase": "Running", "conditions": [ready]})
    shown(plane, namespace, name, "Serving")


def ready(plane: ControlPlane, namespace: str, name: str) -> Json:
    live = json.loads(plane.kubectl("get", "llmd", name, "-n", namespace, "-o", "json"))
    for entry in live.get("status", {}).get("conditions", []):
        if entry["type"] == "Ready" and entry["observedGeneration"] == live["metadata"]["generation"]:
            return dict(entry)
    return {}


def shown(plane: ControlPlane, namespace: str, name: str, reason: str) -> str:
    """The sentence, as soon as `kubectl get` shows the reason."""

    def look() -> Json | None:
        found = ready(plane, namespace, name)
        return found if found.get("reason") == reason else None

    return str(eventually(look, f"{name} to be {reason}", seconds=SECONDS)["message"])


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fault_is_told(plane: ProxiedPlane, namespace: str, case: Case) -> None:
    apply(plane, namespace, "sick", case.source, accelerator={"profile": case.profile})
    weights = case.source == HUB
    labels = of("sick", "weights" if weights else "engine")
    eventually(lambda: ready(plane, namespace, "sick"), "a first status", seconds=SECONDS)
    tell(plane, namespace, labels, case.said)
    sentence = shown(plane, namespace, "sick", case.reason)
    assert case.words in sentence
    assert sentence in plane.kubectl("describe", "llmd", "sick", "-n", namespace).replace("\n", " ")
    assert ready(plane, namespace, "neighbour")["reason"] == "Serving"


@pytest.mark.usefixtures("operator")
def test_a_quota_is_named(plane: ProxiedPlane, namespace: str) -> None:
    plane.kubectl("create", "quota", "small", "--hard=pods=1", "-n", namespace)
    spent = ("get", "quota", "small", "-n", namespace, "-o", "jsonpath={.status.used.pods}")
    eventually(lambda: plane.kubectl(*spent) == "1", "the quota to be counted", seconds=SECONDS)
    apply(plane, namespace, "sick", IMAGE)
    assert "small" in shown(plane, namespace, "sick", "QuotaExceeded")
    assert ready(plane, namespace, "neighbour")["reason"] == "Serving"


def uids(plane: ControlPlane, namespace: str) -> dict[str, str]:
    kinds = "deployments,services,networkpolicies,poddisruptionbudgets"
    items = json.loads(plane.kubectl("get", kinds, "-n", namespace, "-o", "json"))["items"]
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["uid"] for item in items}


def roll(plane: ControlPlane, namespace: str) -> None:
    """Another spec, whose pod becomes ready."""
    apply(plane, namespace, "neighbour", IMAGE, engine={"maxModelLen": 128})


def rolled(plane: ControlPlane, namespace: str) -> bool:
    path = "jsonpath={.spec.template.spec.containers[0].args}"
    return "128" in plane.kubectl("get", "deployment", "neighbour-engine", "-n", namespace, "-o", path)


def test_an_api_server_that_restarts_during_a_rollout_costs_nothing(
    plane: ProxiedPlane, directory: Path, namespace: str, operator: list[Operator]
) -> None:
    before = uids(plane, namespace)
    roll(plane, namespace)
    plane.stop_apiserver(grace_seconds=0)
    plane.start_apiserver()

    def goes_on() -> bool:
        if operator[-1].process.poll() is not None:
            operator.append(Operator(plane, directory, name=f"again-{len(operator)}", port=free_port(LOOPBACK)))
        return rolled(plane, namespace)

    eventually(goes_on, "the rollout to go on", seconds=2 * SECONDS)
    serve(plane, namespace, "neighbour")
    assert uids(plane, namespace) == before


@pytest.mark.usefixtures("operator")
def test_watches_that_expire_miss_nothing(plane: ProxiedPlane, namespace: str) -> None:
    before = uids(plane, namespace)
    plane.proxy.watches.fail(410, "Expired")
    roll(plane, namespace)
    plane.proxy.watches.fail(410, "Expired")
    eventually(lambda: rolled(plane, namespace), "the rollout", seconds=2 * SECONDS)
    serve(plane, namespace, "neighbour")
    assert uids(plane, namespace) == before


@pytest.mark.usefixtures("operator")
def test_a_storm_of_conflicts_ends_as_if_there_had_been_none(plane: ProxiedPlane, namespace: str) -> None:
    before = uids(plane, namespace)
    every_third = iter(range(10**6))
    plane.proxy.choose = lambda call: (
        Fault.CONFLICT if call.namespace == namespace and next(every_third) % 3 == 0 else None
    )
    try:
        roll(plane, namespace)
        apply(plane, namespace, "second", IMAGE)
        eventually(lambda: rolled(plane, namespace), "the rollout", seconds=2 * SECONDS)
        serve(plane, namespace, "second")
        serve(plane, namespace, "neighbour")
    finally:
        plane.proxy.choose = lambda _: None
    assert uids(plane, namespace).items() >= before.items()
