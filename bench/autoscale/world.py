"""A cluster without containers, in a network namespace of its own: everything but the kubelet and vLLM is real.

etcd, API server and controllers; the operator and the gateway as processes; and a node that gives every pod an address
of this namespace and, after `ENGINE_SECONDS`, a stub engine that answers there. What the operator and the gateway add
to an engine's start is so told from what an engine, a runtime and an image take.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import httpx

from bench.gateway.engine import Stub
from hack.cluster.controlplane import ControlPlane
from llmops import names
from llmops.shell import connection
from llmops.shell.cluster import ApiError, Cluster
from llmops.shell.resources import DEPLOYMENT, POD

ROOT = Path(__file__).parents[2]
ENGINE_SECONDS = 0.5
DRAIN_SECONDS = 1.0  # the preStop hook's pause, until every gateway has heard that the pod goes
NETWORK = ipaddress.ip_network("10.200.0.0/16")
GATEWAYS = (str(NETWORK[-2]), str(NETWORK[-3]))
NODE = "bench"
SPACE = "bench"
Json = dict[str, Any]
CONFIG: Json = {
    "images": {"jobs": "jobs:1", "trainer": "trainer:1"},
    "gateway": {"namespace": "default"},
    "profiles": {"cpu": {"image": "engine:1"}},
}


class Engine(Stub):
    """The stub, and in which order requests came; `health` says so as soon as it listens."""

    order: ClassVar[list[bytes]] = []
    streaming: ClassVar[dict[str, int]] = {}  # by address

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST") and (at := data.find(b"X-Number: ")) > 0:
            self.order.append(data[at + 10 : data.index(b"\r", at)])
        self.address: str = self.transport.get_extra_info("sockname")[0]
        if data.startswith(b"POST") and b'"stream": true' in data:
            self.streaming[self.address] = self.streaming.get(self.address, 0) + 1
        super().data_received(data)

    def token(self, left: int) -> None:
        if not left or self.transport.is_closing():
            self.streaming[self.address] -= 1
        super().token(left)


class World:
    """What runs, and how to change it."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane, self.folder = plane, folder
        link = connection.from_kubeconfig(plane.kubeconfig)
        self.cluster = Cluster(link)
        self.http = httpx.AsyncClient(base_url=link.url, verify=link.tls or True, timeout=30)
        self.sizes: dict[str, int] = {}  # of the Deployments, as the API server's watch tells
        self.deployments: dict[str, Json] = {}
        self.pods: dict[str, str] = {}  # of which deployment, by name
        self.gateway = GATEWAYS[0]  # where clients are sent to, as by a Service
        self.changed = asyncio.Condition()
        self.addresses: dict[str, str] = {}  # of the newest pod, by deployment; no entry when it is gone
        self.listening: set[str] = set()  # addresses whose engine answers
        self._addresses = NETWORK.hosts()
        self._engines: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    async def until(self, holds: Callable[[], bool], what: str, seconds: float = 60) -> float:
        """When it held, by `perf_counter`: looked at whenever a size or an address changes."""
        async with self.changed:
            try:
                async with asyncio.timeout(seconds):
                    await self.changed.wait_for(holds)
            except TimeoutError:
                raise SystemExit(f"not within {seconds} s: {what}; see {self.folder}") from None
        return time.perf_counter()

    def start(self, name: str, *arguments: str, **environment: str) -> None:
        """A process of ours."""
        variables = {**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'serving'}", **environment}
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", *arguments]
            self._processes[name] = subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=ROOT)

    def start_operator(self) -> None:
        (self.folder / "config.yaml").write_text(json.dumps(CONFIG))
        self.start(
            "operator",
            "llmops",
            KUBECONFIG=str(self.plane.kubeconfig),
            LLMOPS_CONFIG=str(self.folder / "config.yaml"),
            LLMOPS_NAMESPACE="default",
            LLMOPS_HEALTH_PORT="18099",
        )

    async def start_gateway(self, address: str) -> None:
        """Another gateway; the operator hears of it as of a pod, through an EndpointSlice."""
        self.start(
            address,
            "llmops_serving.gateway",
            *("--kubeconfig", str(self.plane.kubeconfig), "--host", address, "--workers", "1", "--drain-seconds", "60"),
        )
        meta = {
            "name": f"gateway-{address}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": names.gateway_internal("llmops-gateway")},
        }
        manifest = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": meta,
            "addressType": "IPv4",
            "ports": [{"name": "internal", "port": names.GATEWAY_INTERNAL_PORT}],
            "endpoints": [{"addresses": [address]}],
        }
        await self.cluster.apply(manifest, manager="bench")

    async def replace_gateway(self) -> None:
        """A rollout of the gateway: the new one answers, clients are sent there, the old one drains."""
        old, new = self.gateway, GATEWAYS[1]
        await self.start_gateway(new)
        ready = f"http://{new}:{names.GATEWAY_INTERNAL_PORT}/readyz"
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                with suppress(httpx.HTTPError):
                    if (await client.get(ready)).status_code == 200:
                        break
                await asyncio.sleep(0.05)
        self.gateway = new
        await asyncio.sleep(DRAIN_SECONDS)
        await asyncio.to_thread(self.stop, old)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        process = self._processes.pop(name)
        process.send_signal(number)
        process.wait()

    async def close(self) -> None:
        for name in list(self._processes):
            self.stop(name, signal.SIGKILL)
        tasks = [*self._engines.values(), *self._ends.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.http.aclose()
        await self.cluster.close()

    async def patch(self, path: str, body: Json) -> None:
        """A merge patch."""
        headers = {"Content-Type": "application/merge-patch+json"}
        (await self.http.patch(path, content=json.dumps(body), headers=headers)).raise_for_status()

    async def watch_sizes(self) -> None:
        async for deployment in self._every(DEPLOYMENT):
            self.deployments[deployment["metadata"]["name"]] = deployment
            self.sizes[deployment["metadata"]["name"]] = deployment["spec"]["replicas"]
            await self._notify()

    async def run_pods(self) -> None:
        """The kubelet's part: a node for each pod, an address, an engine, readiness, and an end."""
        async for pod in self._every(POD):
            name, owner = pod["metadata"]["name"], pod["metadata"]["labels"][names.LABEL_DEPLOYMENT]
            if pod["metadata"].get("deletionTimestamp"):
                if name in self._engines and name not in self._ends:
                    self._ends[name] = asyncio.create_task(self._end(name, owner, pod["status"].get("podIP", "")))
            elif name not in self._engines:
                self.addresses[owner] = str(next(self._addresses))
                self.pods[name] = owner
                self._engines[name] = asyncio.create_task(self._engine(pod, self.addresses[owner]))
                await self._notify()

    async def _end(self, name: str, owner: str, address: str) -> None:
        """The preStop hook, then the end of the engine and of the pod."""
        await asyncio.sleep(DRAIN_SECONDS)
        while Engine.streaming.get(address):  # noqa: ASYNC110 - as the hook does
            await asyncio.sleep(0.05)
        self._engines[name].cancel()
        await self.http.request("DELETE", POD.path(SPACE, name), content='{"gracePeriodSeconds":0}')
        del self.pods[name]
        if self.addresses.get(owner) == address:
            del self.addresses[owner]
        await self._notify()

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _engine(self, pod: Json, address: str) -> None:
        meta = {key: pod["metadata"][key] for key in ("name", "namespace")}
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta["name"]}, "target": target}
        await self.http.post(POD.path(meta["namespace"], meta["name"], "binding"), json=binding)
        begun = time.perf_counter()
        await self._tell(meta, address, ready=False)
        await asyncio.sleep(begun + ENGINE_SECONDS - time.perf_counter())
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Engine(loop, 0.2), address, names.ENGINE_PORT, backlog=2048)
        async with server:
            self.listening.add(address)
            await self._notify()
            await asyncio.sleep(1)  # the kubelet's probe
            await self._tell(meta, address, ready=True)
            await server.serve_forever()

    async def _tell(self, meta: Json, address: str, *, ready: bool) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": now}
        running = {"name": "engine", "image": "engine:1", "imageID": "", "ready": ready, "restartCount": 0}
        status = {
            "phase": "Running",
            "startTime": now,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [condition],
            "containerStatuses": [{**running, "started": True, "state": {"running": {"startedAt": now}}}],
        }
        with suppress(ApiError):  # it may be gone
            manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": status}
            await self.cluster.apply(manifest, manager="node", subresource="status")

    async def _every(self, resource: Any) -> AsyncIterator[Json]:
        version = ""
        while True:
            if not version:
                items, version = await self.cluster.list(resource, SPACE)
                for item in items:
                    yield item
            async for change in self.cluster.watch(resource, SPACE, version):
                version = change.object["metadata"]["resourceVersion"]
                if change.type in ("ADDED", "MODIFIED"):
                    yield change.object


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """All of it, up; call this in a network namespace that has nothing in it yet."""
    for command in ("link set lo up", f"route add local {NETWORK} dev lo", "route add default dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    # the node's health is nobody's business here: without its controller no heartbeat is needed
    arguments = ["--controllers=*,-node-lifecycle-controller"]
    advertise = [f"--advertise-address={GATEWAYS[0]}"]  # it looks for one on an interface otherwise, and there is none
    with ControlPlane(
        folder / "plane", controllers=True, apiserver_args=advertise, controller_args=arguments, client_qps=500
    ) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        plane.kubectl("create", "namespace", SPACE)
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(node))
        made = World(plane, folder)
        tasks = [asyncio.create_task(made.watch_sizes()), asyncio.create_task(made.run_pods())]
        try:
            await made.start_gateway(made.gateway)
            made.start_operator()
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await made.close()
