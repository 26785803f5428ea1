"""Ways to be rid of everything: a release, a namespace, with an operator that is dead, alive or in the middle of it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from hack.cluster import tools
from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually
from tests.apiserver.operating import ROOT
from tests.faultproxy.lane import Lane, client_of, ground
from tests.faultproxy.models import SMALL, Models
from tests.faultproxy.page import Section, table
from tests.faultproxy.workflows import Json

OBJECTS = 50
OBJECTS_GONE_SECONDS, NAMESPACE_GONE_SECONDS = 5.0, 30.0
WAIT_SECONDS = 300


def uninstalled(*settings: str) -> tuple[float, int]:
    """Install the chart with these values, make objects, uninstall it: seconds, and how many objects are left."""
    with ControlPlane(client_qps=300) as plane:
        plane.start_controllers()
        helm(plane, "install", "llmops", str(ROOT / "helm" / "llmops"), "--create-namespace", *settings)
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        plane.kubectl("create", "namespace", "models")
        client = client_of(plane.kubeconfig)
        path = "/apis/llmops.dev/v1alpha1/namespaces/models/llmdeployments"
        for number in range(OBJECTS):
            meta = {"name": f"m-{number}", "namespace": "models"}
            manifest: Json = {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta}
            client.post(path, json=manifest | {"spec": SMALL}).raise_for_status()
        begun = time.monotonic()
        helm(plane, "uninstall", "llmops")
        if "crds.keep=false" in settings:
            crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/llmdeployments.llmops.dev"
            eventually(lambda: client.get(crd).status_code == 404, "the definition to go", WAIT_SECONDS)
        seconds = time.monotonic() - begun
        answer = client.get(path)
        return seconds, 0 if answer.status_code == 404 else len(answer.json()["items"])


def helm(plane: ControlPlane, *arguments: str) -> None:
    where = [f"--kubeconfig={plane.kubeconfig}", "-n", "llmops-system"]
    environment = {**os.environ, "HOME": str(plane.directory)}
    subprocess.run(
        [tools.program("helm", "helm"), *arguments, *where], check=True, capture_output=True, env=environment
    )


def namespace(plane: ControlPlane, directory: Path, name: str, *, alive: bool, settled: bool) -> tuple[float, int]:
    """Delete a namespace full of objects: the seconds until it is gone, and how many writes were tried after that.

    `settled` waits until the operator is done with creating; otherwise it is in the middle of it.
    """
    space = f"{name}-work"
    with Lane(plane, directory, name, [space, f"{name}-other"]) as lane:
        models = Models(lane, OBJECTS)
        models.create()
        if settled:
            assert models.settled() < float("inf"), models.lagging()
        if not alive:
            lane.stop()
        begun = time.monotonic()
        models.client.delete(f"/api/v1/namespaces/{space}").raise_for_status()
        eventually(
            lambda: models.client.get(f"/api/v1/namespaces/{space}").status_code == 404, "it to go", WAIT_SECONDS
        )
        seconds = time.monotonic() - begun
        before = len(lane.proxy.writes(space))
        if alive:  # it still serves others, and leaves what is gone alone
            others = Models(lane, 3, namespace=f"{name}-other")
            others.create()
            assert others.settled() < float("inf"), others.lagging()
            assert lane.exits == []
        return seconds, len(lane.proxy.writes(space)) - before


def run(directory: Path, *, long: bool) -> Section:
    """`long` changes nothing."""
    del long
    rows, broken = [], []
    for settings, left in (([], OBJECTS), (["--set", "crds.keep=false"], 0)):
        seconds, found = uninstalled(*settings)
        rows.append([f"helm uninstall, {settings[-1] if settings else 'defaults'}", f"{seconds:.1f}", found, ""])
        broken += [f"{found} objects left, not {left}"] * (found != left)
        broken += [f"uninstalled in {seconds:.1f} s"] * (seconds > OBJECTS_GONE_SECONDS)
    cases = {
        "namespace deleted, no operator runs": (False, True),
        "namespace deleted, the operator runs": (True, True),
        "namespace deleted while the operator creates in it": (True, False),
    }
    with ground() as plane:
        for number, (what, (alive, settled)) in enumerate(cases.items()):
            seconds, late = namespace(plane, directory, f"gone-{number}", alive=alive, settled=settled)
            rows.append([what, f"{seconds:.1f}", 0, late])
            broken += [f"{what}: {seconds:.1f} s"] * (seconds > NAMESPACE_GONE_SECONDS)
    head = [f"with {OBJECTS} LLMDeployments", "seconds until gone", "objects left", "writes tried later"]
    return Section("gone", "Uninstall, and namespaces that go", table(head, rows), tuple(broken))
