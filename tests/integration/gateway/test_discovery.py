"""Models and pods from a real API server, and what stays known while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hack.cluster.controlplane import ControlPlane
from llmops import names
from llmops.shell import connection
from llmops.shell.budgets import Budgets
from llmops.shell.cluster import Cluster
from llmops.shell.signals import Signals
from llmops_serving.gateway.discovery import ClusterDiscovery, SumsDiscovery
from llmops_serving.gateway.keys import Key, keyring
from llmops_serving.gateway.kubernetes import from_kubeconfig
from llmops_serving.gateway.table import Endpoint, Model, Table, Target
from tests.integration.gateway.rig import Rig, engines, eventually, model, rig, run

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield plane


@pytest.fixture(autouse=True)
def nothing_left(plane: ControlPlane) -> Iterator[None]:
    yield
    for kind in ("llmdeployments", "pods"):
        plane.kubectl("delete", kind, "--all", "-n", "default", "--wait=false", "--grace-period=0", "--force")


class Tables:
    """Keeps the newest table."""

    def __init__(self) -> None:
        self.newest = Table()

    def apply(self, table: Table) -> None:
        self.newest = table

    def model(self, key: str) -> Model | None:
        return self.newest.models.get(key)

    def endpoints(self, key: str) -> tuple[Endpoint, ...]:
        model = self.model(key)
        return model.endpoints if model else ()


@contextlib.asynccontextmanager
async def discovery(plane: ControlPlane) -> AsyncIterator[Tables]:
    tables = Tables()
    access = from_kubeconfig(plane.kubeconfig)
    task = asyncio.create_task(ClusterDiscovery(access, tables.apply).run())
    try:
        yield tables
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await access.close()


def apply(plane: ControlPlane, manifest: dict[str, object], *flags: str) -> None:
    path = plane.directory / "manifest.json"
    path.write_text(json.dumps(manifest))
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path), *flags)


def deployment(name: str = "support", **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": {"source": "hf://org/model"}, "accelerator": {"profile": "cpu"}, "replicas": 1, **spec},
    }


def engine(plane: ControlPlane, name: str, address: str, *, ready: bool = True) -> None:
    """What controllers, scheduler and kubelet make of an engine pod; no EndpointSlice says anything of it."""
    labels = {"llmops.dev/deployment": "support", "app.kubernetes.io/component": "engine"}
    container = {"name": "engine", "image": "engine", "ports": [{"name": "http", "containerPort": 8000}]}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": labels}}
    apply(plane, {**manifest, "spec": {"nodeName": "node", "containers": [container]}})
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"podIP": address, "podIPs": [{"ip": address}], "conditions": [condition]}
    apply(plane, {**manifest, "status": status}, "--subresource=status")


def endpoint(name: str, address: str, *, ready: bool = True, adapters: str = "") -> Endpoint:
    return Endpoint(address, 8000, name, ready=ready, adapters=frozenset(adapters.split()))


def test_a_deployment_is_known_with_its_pods_and_forgotten_with_them(plane: ControlPlane) -> None:
    async def scenario() -> None:
        async with discovery(plane) as tables:
            apply(plane, deployment(gateway={"holdSeconds": 30, "maxHeld": 7, "requestTimeoutSeconds": 20}))
            await eventually(lambda: tables.model("default/support") is not None, "the model is known at zero")
            assert tables.newest.names["support"] == Target("default/support", "support")
            seen = tables.model("default/support")
            assert seen is not None
            assert (seen.hold_seconds, seen.max_held, seen.timeout_seconds) == (30, 7, 20)

            engine(plane, "one", "10.0.0.1")
            engine(plane, "two", "10.0.0.2", ready=False)
            expected = (endpoint("one", "10.0.0.1"), endpoint("two", "10.0.0.2", ready=False))
            await eventually(lambda: tables.endpoints("default/support") == expected, "its pods are known")

            engine(plane, "two", "10.0.0.2")
            plane.kubectl("delete", "pod", "one", "-n", "default", "--wait=false")  # it stays until its kubelet says so
            left = (endpoint("two", "10.0.0.2"),)
            await eventually(lambda: tables.endpoints("default/support") == left, "a terminating pod is left alone")
            assert "one" in plane.kubectl("get", "pods", "-n", "default", "-o", "name")

            plane.kubectl("delete", "llmdeployment", "support", "-n", "default")
            await eventually(lambda: tables.model("default/support") is None, "the model is gone")

    run(scenario)


def test_what_adapters_a_pod_serves_is_seen(plane: ControlPlane) -> None:
    async def scenario() -> None:
        async with discovery(plane) as tables:
            apply(plane, deployment())
            engine(plane, "one", "10.0.0.1")
            known = endpoint("one", "10.0.0.1")
            await eventually(lambda: tables.endpoints("default/support") == (known,), "the pod is known")
            plane.kubectl("annotate", "pod", "one", "-n", "default", "llmops.dev/adapters=mails,tickets")
            loaded = endpoint("one", "10.0.0.1", adapters="mails tickets")
            await eventually(lambda: tables.endpoints("default/support") == (loaded,), "what it serves is known")

    run(scenario)


def test_a_terminal_reason_is_seen(plane: ControlPlane) -> None:
    async def scenario() -> None:
        async with discovery(plane) as tables:
            apply(plane, deployment())
            condition = {
                "type": "WeightsReady",
                "status": "False",
                "reason": "ModelNotFound",
                "message": "org/model does not exist.",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "observedGeneration": 1,
            }
            apply(plane, {**deployment(), "status": {"conditions": [condition]}}, "--subresource=status")
            failure = "ModelNotFound: org/model does not exist."
            await eventually(lambda: getattr(tables.model("default/support"), "failure", "") == failure, "the failure")

    run(scenario)


def test_what_is_known_outlives_the_api_server_and_changes_are_seen_after_it(plane: ControlPlane) -> None:
    async def scenario() -> None:
        async with discovery(plane) as tables:
            apply(plane, deployment())
            engine(plane, "one", "10.0.0.1", ready=False)
            known = (endpoint("one", "10.0.0.1", ready=False),)
            await eventually(lambda: tables.endpoints("default/support") == known, "the pod is known")
            await asyncio.to_thread(plane.stop_apiserver)
            await asyncio.sleep(1.0)  # the time it is away: the claim is that nothing happens in it
            assert tables.endpoints("default/support") == known
            plane.start_apiserver()  # here: its process dies with the thread that starts it
            await asyncio.to_thread(engine, plane, "one", "10.0.0.1")
            newer = (endpoint("one", "10.0.0.1"),)
            await eventually(lambda: tables.endpoints("default/support") == newer, "the change is seen", 60)

    run(scenario)


def test_a_months_tokens_outlive_gateway_and_operator(plane: ControlPlane) -> None:
    async def scenario() -> None:
        secret = "sk-a"
        digest = hashlib.sha256(secret.encode()).digest()
        mine = Key("mine", digest, "a", frozenset({"*"}), monthly_tokens=30)
        apply(plane, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": usage_config_map()})
        cluster = Cluster(connection.from_kubeconfig(plane.kubeconfig))
        access = from_kubeconfig(plane.kubeconfig)

        async def spend(gateway: Rig) -> int:
            headers = {"Authorization": f"Bearer {secret}"}
            body = {"model": "support", "messages": []}
            return (await gateway.http.post("/v1/chat/completions", json=body, headers=headers)).status_code

        async with engines() as [stub]:
            budgets = Budgets(cluster, "default")
            heard: list[str] = []
            signals = Signals(heard.append, on_usage=budgets.heard)
            async with rig(model("support", stub)) as gateway:
                gateway.gateway.admit_keys(keyring([mine]))
                signals.update_gateways([f"http://127.0.0.1:{gateway.internal_port}{names.LOAD_STREAM}"])
                await eventually(lambda: signals.load("default/support") is not None, "the operator listens")
                assert [await spend(gateway) for _ in range(2)] == [200, 200], "fifteen tokens each"
                await eventually(lambda: max(budgets.sums.values(), default=0) == 30, "the operator has heard")
                await budgets.write()
            await signals.close()
            for again in (Budgets(cluster, "default"), Budgets(cluster, "default")):
                await again.write()  # an operator that has heard nothing takes nothing away
            async with rig(model("support", stub)) as gateway:
                gateway.gateway.admit_keys(keyring([mine]))
                recalling = asyncio.create_task(SumsDiscovery(access, gateway.gateway.ledger.recall, "default").run())
                await eventually(lambda: gateway.gateway.ledger.sums == {"mine": 30}, "the gateway has read it")
                assert await spend(gateway) == 429
                recalling.cancel()
        await access.close()
        await cluster.close()

    run(scenario)


def usage_config_map() -> dict[str, object]:
    return {"name": names.USAGE_CONFIG_MAP, "namespace": "default"}
