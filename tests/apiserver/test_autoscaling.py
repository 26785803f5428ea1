"""Who decides the size on a real API server: load, told by a real gateway; a schedule; or somebody else's HPA."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from hack.cluster.controlplane import LOOPBACK, free_port
from hack.waiting import eventually
from tests.apiserver.operating import SYSTEM, Operator, ProxiedPlane, audited_plane, own_plane, writes
from tests.apiserver.traffic import Gateway

Json = dict[str, Any]
HELD = 40
TARGET = {"target": {"concurrency": 4}}


plane = own_plane(partial(audited_plane, controller_args=["--horizontal-pod-autoscaler-sync-period=1s"]))


@pytest.fixture(scope="module")
def gateway(plane: ProxiedPlane, directory: Path) -> Iterator[str]:
    """A gateway's base URL; the operator finds it as it finds one in pods, through an EndpointSlice."""
    gateway = Gateway(plane.kubeconfig, directory / "gateway.log")
    meta = {"name": "gateway", "namespace": SYSTEM, "labels": {"kubernetes.io/service-name": "llmops-gateway-internal"}}
    found: Json = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta}
    # The API server takes no loopback address for an IPv4 one.
    found |= {"addressType": "FQDN", "endpoints": [{"addresses": [LOOPBACK]}]}
    found |= {"ports": [{"name": "internal", "port": gateway.internal}]}
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(found))
    yield gateway.url
    gateway.stop()


@contextmanager
def running(plane: ProxiedPlane, directory: Path, name: str) -> Iterator[Operator]:
    operator = Operator(plane, directory, name=name, port=free_port(LOOPBACK))
    try:
        yield operator
    finally:
        if operator.process.poll() is None:
            operator.stop()


@contextmanager
def held(base: str, model: str) -> Iterator[None]:
    """So many requests that wait for a model of which no pod answers, until the block is left."""

    async def wait(stop: asyncio.Event) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        async with httpx.AsyncClient(base_url=base, timeout=300, limits=httpx.Limits(max_connections=HELD)) as client:
            asked = [asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(HELD)]
            await stop.wait()
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(wait(stop),))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def apply(plane: ProxiedPlane, namespace: str, name: str = "m", **spec: Any) -> None:
    manifest = {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"source": "oci://models/tiny:1"}, **spec},
    }
    plane.kubectl("apply", "--server-side", "--field-manager=user", "-f", "-", stdin=json.dumps(manifest))


def get(plane: ProxiedPlane, namespace: str, what: str) -> Json:
    found: Json = json.loads(plane.kubectl("get", what, "-n", namespace, "-o", "json"))
    return found


def condition(plane: ProxiedPlane, namespace: str, kind: str, name: str = "m") -> Json:
    found = get(plane, namespace, f"llmd/{name}").get("status", {}).get("conditions", [])
    return next((dict(entry) for entry in found if entry["type"] == kind), {})


def size(plane: ProxiedPlane, namespace: str) -> int | None:
    found = get(plane, namespace, "deployments")["items"]
    return int(found[0]["spec"]["replicas"]) if found else None


def test_load_decides_says_so_and_a_restart_changes_nothing(
    plane: ProxiedPlane, directory: Path, namespace: str, gateway: str
) -> None:
    apply(plane, namespace, autoscaling={"maxReplicas": 4, **TARGET})
    with running(plane, directory, "operator-0") as first:
        eventually(lambda: size(plane, namespace) == 1, "one replica", 60)
        with held(gateway, f"{namespace}/m"):
            eventually(lambda: size(plane, namespace) == 4, "four replicas", 60)
            told = eventually(lambda: changed_to(plane, namespace, 4), "the change in status", 60)
            assert told["reason"] == "DemandRose"  # at once or in two steps, as the requests came
            active = condition(plane, namespace, "ScalingActive")
            assert active["status"] == "True"
            assert f"Last change: {told['fromReplicas']} to 4: " in active["message"]
            eventually(lambda: f"{told['fromReplicas']} to 4: " in changes(plane, namespace, "DemandRose"), "Event", 60)
            assert "0 to 1: a new model is started once" in changes(plane, namespace, "FirstStart")

            before = writes(directory, namespace)
            first.stop()
            with running(plane, directory, "operator-1"):
                apply(plane, namespace, "later", replicas=0)  # its status: the restart has looked at the other, too
                eventually(lambda: condition(plane, namespace, "Ready", "later"), "the later one's status", 60)
                assert [write for write in writes(directory, namespace) if "later" not in write] == before


def changed_to(plane: ProxiedPlane, namespace: str, replicas: int) -> Json | None:
    """The last change that status tells of, once it is the one to this size."""
    found: Json = get(plane, namespace, "llmd/m").get("status", {}).get("lastScale", {})
    return found if found.get("toReplicas") == replicas else None


def changes(plane: ProxiedPlane, namespace: str, reason: str) -> str:
    """The lines of `kubectl describe` about changes of size for this reason."""
    lines = plane.kubectl("describe", "llmd/m", "-n", namespace).partition("Events:")[2].splitlines()
    return "\n".join(line for line in lines if reason in line.split())


def test_a_schedule_in_no_time_zone_is_named_and_its_correction_is_followed(
    plane: ProxiedPlane, directory: Path, namespace: str
) -> None:
    schedule = {"cron": "* * * * *", "minReplicas": 2}
    auto = {"maxReplicas": 3, **TARGET}
    with running(plane, directory, "operator-2"):
        apply(plane, namespace, autoscaling={**auto, "schedules": [{**schedule, "timeZone": "Europe/Atlantis"}]})
        refusal = eventually(
            lambda: (found := condition(plane, namespace, "Accepted")).get("status") == "False" and found, "refusal", 60
        )
        assert refusal["reason"] == "InvalidSpec"
        assert "'Europe/Atlantis' is not in the IANA database" in refusal["message"]
        apply(plane, namespace, autoscaling={**auto, "schedules": [{**schedule, "timeZone": "Europe/Berlin"}]})
        eventually(lambda: size(plane, namespace) == 2, "the scheduled least", 60)


def test_load_is_heard_after_an_error_in_every_watch(
    plane: ProxiedPlane, directory: Path, namespace: str, gateway: str
) -> None:
    """At such an error kopf ends, and of a process that it takes for its own it would end everything else, too."""
    apply(plane, namespace, autoscaling={"maxReplicas": 4, **TARGET})
    with running(plane, directory, "operator-4"):
        eventually(lambda: size(plane, namespace) == 1, "one replica", 60)
        plane.proxy.watches.fail(500, "InternalError")
        log = directory / "operator-4.log"
        eventually(lambda: '"listening again"' in log.read_text(), "kopf to end", 60)
        with held(gateway, f"{namespace}/m"):
            eventually(lambda: size(plane, namespace) == 4, "four replicas", 60)


def test_a_horizontal_pod_autoscaler_sets_the_size_and_is_not_fought(
    plane: ProxiedPlane, directory: Path, namespace: str
) -> None:
    serve_metrics(plane)
    with running(plane, directory, "operator-3"):
        apply(plane, namespace, replicas=1)
        plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(HPA))
        use_memory(plane, namespace, pods=1, mebibytes=300)
        eventually(lambda: size(plane, namespace) == 3, "three replicas of the target's size", 90)
        assert condition(plane, namespace, "ScalingActive")["reason"] == "FixedSize"
        assert not [write for write in writes(directory, namespace) if write.startswith("patch llmdeployments/m/scale")]
        use_memory(plane, namespace, pods=3, mebibytes=20)
        eventually(lambda: size(plane, namespace) == 1, "one again", 90)
        assert get(plane, namespace, "llmd/m")["spec"]["replicas"] == 1


HPA = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "m"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "name": "m"},
        "minReplicas": 1,
        "maxReplicas": 4,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "100Mi"}},
            }
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    },
}


def serve_metrics(plane: ProxiedPlane) -> None:
    """What metrics-server answers, from objects that the test writes: the controller cannot tell the difference."""
    names = {"plural": "pods", "singular": "podmetrics", "kind": "PodMetrics", "listKind": "PodMetricsList"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "pods.metrics.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, it stands for metrics-server in a test"},
        },
        "spec": {
            "group": "metrics.k8s.io",
            "scope": "Namespaced",
            "names": names,
            "versions": [{"name": "v1beta1", "served": True, "storage": True, "schema": schema}],
        },
    }
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(definition))
    plane.kubectl("wait", "--for=condition=Established", "crd/pods.metrics.k8s.io", "--timeout=60s")


def use_memory(plane: ProxiedPlane, namespace: str, *, pods: int, mebibytes: int) -> None:
    """So many pods run, says their node, and each uses so much, says metrics-server."""
    selector = eventually(lambda: get(plane, namespace, "llmd/m").get("status", {}).get("selector"), "a selector", 60)

    def listed() -> list[Json] | None:
        found: list[Json] = json.loads(plane.kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json"))[
            "items"
        ]
        return found if len(found) == pods else None

    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"phase": "Running", "startTime": now, "conditions": [{"type": "Ready", "status": "True"}]}
    patch = ["--subresource=status", "-p", json.dumps({"status": status})]

    def reported() -> list[Json] | None:
        found = listed() or []
        try:
            for pod in found:
                plane.kubectl("patch", f"pod/{pod['metadata']['name']}", "-n", namespace, *patch)
        except subprocess.CalledProcessError as error:
            if "NotFound" not in error.stderr:
                raise
            return None  # one has gone since it was listed
        return found

    for pod in eventually(reported, f"{pods} pods", 60):
        name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
        metrics = {
            "apiVersion": "metrics.k8s.io/v1beta1",
            "kind": "PodMetrics",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "timestamp": now,
            "window": "15s",
            "containers": [{"name": "engine", "usage": {"cpu": "100m", "memory": f"{mebibytes}Mi"}}],
        }
        plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(metrics))
