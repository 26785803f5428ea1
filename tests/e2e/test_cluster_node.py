"""The node itself: what a restricted pod needs from it, without any of ours in the pod."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.controlplane import kubectl
from hack.cluster.gpus import advertise_gpus
from hack.cluster.images import static_program, write_archive
from hack.cluster.provider import choose, providers

IMAGE = "localhost/llmops-probe:test"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
USER = {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}


class Namespace:
    """A namespace that enforces the restricted level, and kubectl in it."""

    def __init__(self, kubeconfig: Path) -> None:
        self.name = f"node-{uuid.uuid4().hex[:8]}"
        self.cluster = partial(kubectl, kubeconfig)
        self.cluster("create", "namespace", self.name)
        self.cluster("label", "namespace", self.name, "pod-security.kubernetes.io/enforce=restricted")

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster("--namespace", self.name, *arguments, stdin=stdin)

    def apply(self, *objects: dict[str, Any]) -> None:
        listing = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(listing))

    def probe(self, pod: str, *arguments: str) -> str:
        """What the probe in a pod printed."""
        return self.kubectl("exec", pod, "--", "/program", *arguments)


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    cluster = choose(None, providers())
    kubeconfig = cluster.up()
    archive = tmp_path_factory.mktemp("image") / "probe.tar"
    write_archive(archive, IMAGE, static_program(Path(__file__).parent / "probe" / "main.go"))
    cluster.load_images([archive])
    namespace = Namespace(kubeconfig)
    namespace.apply(pod("first", claim="data"), pod("second"), SERVICE, CLAIM)
    namespace.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=180s")
    yield namespace
    namespace.cluster("delete", "namespace", namespace.name, "--wait=false")


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "probe"}, "ports": [{"port": 80, "targetPort": 8080}]},
}


def pod(name: str, *, claim: str | None = None, **limits: str) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "probe",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": ["serve"],
        "securityContext": RESTRICTED,
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
        "resources": {"limits": limits},
    }
    spec: dict[str, Any] = {"securityContext": USER, "containers": [container]}
    if claim:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    metadata = {"name": name, "labels": {"app": "probe"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_the_log_of_a_pod_can_be_read(namespace: Namespace) -> None:
    assert namespace.kubectl("logs", "first") == "user 65532\n"


@pytest.mark.parametrize("name", ["web", "web.{namespace}", "web.{namespace}.svc.cluster.local"])
def test_a_service_is_found_by_name_and_reaches_every_pod(namespace: Namespace, name: str) -> None:
    url = f"http://{name.format(namespace=namespace.name)}/"
    deadline = time.monotonic() + 60
    answered: set[str] = set()
    said: list[str] = []
    while answered != {"first", "second"} and time.monotonic() < deadline:
        try:
            answered.add(namespace.probe("first", "get", url))
        except subprocess.CalledProcessError as early:  # a ready pod is known to the resolver and the proxy a bit later
            said.append(early.stderr)
    assert answered == {"first", "second"}, said


def test_a_claim_is_bound_to_a_volume_that_the_pods_user_can_write(namespace: Namespace) -> None:
    namespace.probe("first", "write", "/data/file")
    assert namespace.kubectl("get", "pvc", "data", "-o", "jsonpath={.status.phase}") == "Bound"


def test_the_image_cannot_be_written(namespace: Namespace) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        namespace.probe("first", "write", "/file")
    assert "read-only file system" in refused.value.output


def test_pods_that_ask_for_more_accelerators_than_there_are_wait(namespace: Namespace) -> None:
    node = namespace.cluster("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    resource = f"{namespace.name}.example.com/gpu"
    advertise_gpus(namespace.cluster, node, 1, resource=resource)
    try:
        namespace.apply(pod("placed", **{resource: "1"}))
        namespace.kubectl("wait", "--for=condition=Ready", "pod/placed", "--timeout=180s")
        namespace.apply(pod("waiting", **{resource: "1"}))
        namespace.kubectl("wait", "--for=condition=PodScheduled=False", "pod/waiting", "--timeout=180s")
        message = namespace.kubectl("get", "pod", "waiting", "-o", "jsonpath={.status.conditions[0].message}")
        assert f"Insufficient {resource}" in message
        namespace.kubectl("delete", "pod", "placed")
        namespace.kubectl("wait", "--for=condition=Ready", "pod/waiting", "--timeout=180s")
    finally:
        namespace.kubectl("delete", "pod", "placed", "waiting", "--ignore-not-found")
        advertise_gpus(namespace.cluster, node, 0, resource=resource)
