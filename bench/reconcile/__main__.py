"""`python -m bench.reconcile --count 1000`: N deployments at zero replicas on a real API server.

In one run: the operator as a process, and a *null writer* that sends the same writes with no logic, both over the
same client with 32 writes at once. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hack.cluster.controlplane import ControlPlane
from llmops import names
from llmops.api.llm_deployment import LLMDeployment
from llmops.config import Config
from llmops.desired import serving
from llmops.shell import connection
from llmops.shell.cluster import Cluster
from llmops.shell.resources import LLM_DEPLOYMENT

ROOT = Path(__file__).parents[2]
AT_ONCE = 32
Json = dict[str, Any]
CONFIG: Json = {
    "images": {"jobs": "jobs:1", "trainer": "trainer:1"},
    "gateway": {"namespace": "default"},
    "profiles": {"cpu": {"image": "engine:1"}},
}


def deployment(namespace: str, number: int) -> Json:
    """One that needs no weights Job and no pod: what is measured is the operator and the API server."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "LLMDeployment",
        "metadata": {"name": f"m-{number}", "namespace": namespace},
        "spec": {"model": {"source": "oci://models/tiny:1"}, "replicas": 0},
    }


async def all_of(work: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> None:
    """Do the work on every item, 32 at once."""
    queue = list(items)[::-1]

    async def worker() -> None:
        while queue:
            await work(queue.pop())

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def create(cluster: Cluster, namespace: str, count: int) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    subprocess.run([*KUBECTL, "apply", "-f", "-"], input=json.dumps(space), text=True, check=True, capture_output=True)

    async def one(number: int) -> None:
        await cluster.apply(deployment(namespace, number), manager="bench")

    await all_of(one, range(count))


async def null_writer(cluster: Cluster, count: int) -> Json:
    """The same children, one status and one Event per object, and nothing else."""
    await create(cluster, "null", count)
    live, _ = await cluster.list(LLM_DEPLOYMENT, "null")
    config = Config.model_validate(CONFIG)
    writes = 0

    async def one(found: Json) -> None:
        nonlocal writes
        manifest = {**found, "apiVersion": names.API_VERSION, "kind": "LLMDeployment"}
        llm = LLMDeployment.from_manifest(manifest)
        for child in serving.objects(llm, config, replicas=0, weights_ready=True, surge=True):
            await cluster.apply(child, manager=names.CHILD_MANAGER)
            writes += 1
        meta = {key: found["metadata"][key] for key in ("name", "namespace")}
        identity = {"apiVersion": names.API_VERSION, "kind": "LLMDeployment", "metadata": meta}
        await cluster.apply({**identity, "status": STATUS}, manager=names.STATUS_MANAGER, subresource="status")
        await cluster.create(event(found), manager=names.STATUS_MANAGER)
        writes += 2

    begun = time.monotonic()
    await all_of(one, live)
    seconds = time.monotonic() - begun
    return {"seconds": round(seconds, 2), "writes": writes, "writes per second": round(writes / seconds)}


STATUS: Json = {
    "observedGeneration": 1,
    "replicas": 0,
    "readyReplicas": 0,
    "conditions": [
        {
            "type": kind,
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "reason": "ScaledToZero",
            "message": "spec.replicas is 0. Raise it, or set spec.autoscaling to wake on requests.",
        }
        for kind in ("Ready", "Accepted", "WeightsReady", "Progressing", "ScalingActive")
    ],
}


def event(found: Json) -> Json:
    meta = found["metadata"]
    regarding = {"apiVersion": names.API_VERSION, "kind": "LLMDeployment", "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}-null", "namespace": meta["namespace"]},
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "bench",
        "reportingInstance": "bench",
        "action": "Ready",
        "reason": "ScaledToZero",
        "type": "Normal",
        "regarding": {**regarding, "namespace": meta["namespace"]},
        "note": "spec.replicas is 0.",
    }


async def operator(cluster: Cluster, process: subprocess.Popen[bytes], port: int, count: int) -> Json:
    """Creation of N, then a quiet half minute, then a restart's writes are left to the tests."""
    empty = memory(process.pid)
    before = await calls(port)
    begun = time.monotonic()
    await create(cluster, "bench", count)
    created = time.monotonic() - begun
    while (ready := await settled(cluster)) < count:
        if time.monotonic() - begun > 900:
            raise SystemExit(f"only {ready} of {count} are ready after 900 s")
        await asyncio.sleep(0.25)
    seconds = time.monotonic() - begun
    after = await calls(port)
    writes = sum(after[key] - before.get(key, 0) for key in after if key in ("PATCH", "POST", "DELETE"))
    quiet = await calls(port)
    await asyncio.sleep(30)
    idle = await calls(port)
    moved = {verb: idle[verb] - quiet.get(verb, 0) for verb in idle}
    full = memory(process.pid)
    return {
        "seconds": round(seconds, 2),
        "seconds to create the objects": round(created, 2),
        "writes": writes,
        "writes per object": round(writes / count, 2),
        "writes per second": round(writes / seconds),
        "idle writes": sum(moved.get(verb, 0) for verb in ("PATCH", "POST", "DELETE")),
        "idle requests per second": round(
            (sum(moved.values()) - moved.get("PUT", 0) - moved.get("lease GET", 0)) / 30, 2
        ),
        "MB at 0": round(empty / 2**20, 1),
        "KB per object": round((full - empty) / 1024 / count, 1),
        "CPU ms per object": round(cpu(process.pid) * 1000 / count, 1),
    }


async def settled(cluster: Cluster) -> int:
    live, _ = await cluster.list(LLM_DEPLOYMENT, "bench")
    return sum(
        any(
            entry["type"] == "Ready" and entry["status"] == "True"
            for entry in item.get("status", {}).get("conditions", [])
        )
        for item in live
    )


async def calls(port: int) -> dict[str, int]:
    """Requests so far by verb, from the operator's own metrics; the Lease's reads are counted apart."""
    import httpx  # noqa: PLC0415 - only here

    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    found: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith("llmops_operator_api_calls_total{"):
            labels, value = line.rsplit(" ", 1)
            verb = labels.split('verb="')[1].split('"')[0]
            if 'resource="leases"' in labels:
                verb = f"lease {verb}" if verb == "GET" else "PUT"
            found[verb] = found.get(verb, 0) + int(float(value))
    return found


def memory(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


KUBECTL: list[str] = []


async def measure(plane: ControlPlane, folder: Path, count: int) -> Json:
    link = connection.from_kubeconfig(plane.kubeconfig)
    cluster = Cluster(link, connections=AT_ONCE)
    (folder / "config.yaml").write_text(json.dumps(CONFIG))
    port = 18099
    environment = {
        **os.environ,
        "KUBECONFIG": str(plane.kubeconfig),
        "LLMOPS_CONFIG": str(folder / "config.yaml"),
        "LLMOPS_NAMESPACE": "default",
        "LLMOPS_HEALTH_PORT": str(port),
        "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'serving'}",
    }
    floor = await null_writer(cluster, count)
    subprocess.run([*KUBECTL, "delete", "namespace", "null", "--wait=false"], check=True, capture_output=True)
    subprocess.run([*KUBECTL, "delete", "llmd", "--all", "-n", "null"], check=True, capture_output=True)
    log = (folder / "operator.log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "llmops"], env=environment, stdout=log, stderr=log)
    try:
        while b'"working"' not in (folder / "operator.log").read_bytes():
            if process.poll() is not None:
                raise SystemExit((folder / "operator.log").read_text())
            await asyncio.sleep(0.1)
        ours = await operator(cluster, process, port, count)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        await cluster.close()
    ratio = ours["writes per second"] / floor["writes per second"]
    return {"count": count, "null writer": floor, "operator": ours, "ratio of write rates": round(ratio, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder, ControlPlane(client_qps=2000) as plane:
        from hack.cluster import tools  # noqa: PLC0415 - only here

        KUBECTL[:] = [str(tools.program("kubernetes", "kubectl")), f"--kubeconfig={plane.kubeconfig}"]
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        print(json.dumps(asyncio.run(measure(plane, Path(folder), count)), indent=2))


if __name__ == "__main__":
    main()
