"""New versions and old ones over live objects, and the ways to be rid of us: nothing restarts, nothing hangs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import tools
from hack.cluster.controlplane import LOOPBACK, ControlPlane, free_port
from hack.waiting import eventually
from tests.apiserver.operating import ROOT, Operator, ProxiedPlane, audited_plane, own_plane
from tests.apiserver.traffic import Gateway, Streams, engine

Json = dict[str, Any]
CHART = ROOT / "helm" / "llmops"
IMAGE = "oci://models/tiny:1"
MANY = 50
NEXT = {"images": {"jobs": "jobs:2", "trainer": "trainer:2"}, "logLevel": "DEBUG"}


plane = own_plane(audited_plane)


def deployment(name: str, **spec: Any) -> Json:
    wanted = {"model": {"source": IMAGE}, "replicas": 1, **spec}
    return {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": name}, "spec": wanted}


def apply(plane: ControlPlane, namespace: str, *manifests: Json) -> None:
    text = yaml.safe_dump_all(manifests)
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-n", namespace, "-f", "-", stdin=text)


def listed(plane: ControlPlane, namespace: str, kinds: str) -> list[Json]:
    items: list[Json] = json.loads(plane.kubectl("get", kinds, "-n", namespace, "-o", "json"))["items"]
    return items


def seen(plane: ControlPlane, namespace: str) -> bool:
    """Whether the operator has judged the present generation of everything."""
    items = listed(plane, namespace, "llmdeployments,finetunejobs")
    return all(item["status"]["observedGeneration"] == item["metadata"]["generation"] for item in items)


def versions(plane: ControlPlane, namespace: str) -> dict[str, tuple[str, int]]:
    """Which children there are, and which spec of them: a changed pod template is a new generation."""
    kinds = "deployments,replicasets,jobs,persistentvolumeclaims,services,networkpolicies,poddisruptionbudgets"
    return {
        f"{item['kind']}/{item['metadata']['name']}": (item["metadata"]["uid"], item["metadata"].get("generation", 0))
        for item in listed(plane, namespace, kinds)
    }


def crds(change: Callable[[Json], None]) -> str:
    definitions = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    for definition in definitions:
        change(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"])
    return yaml.safe_dump_all(definitions)


def with_new_fields(properties: Json) -> None:
    """What a next version may do to the API: add."""
    properties["spec"]["properties"]["brandNew"] = {"type": "string", "default": "yes"}
    properties["status"]["properties"]["brandNew"] = {"type": "string"}


@pytest.mark.long
def test_up_and_down_again_restarts_nothing_and_cuts_nobody(plane: ProxiedPlane, directory: Path) -> None:
    namespace = "updown"
    plane.kubectl("create", "namespace", namespace)
    now = Operator(plane, directory, name="now", port=free_port(LOOPBACK))
    apply(plane, namespace, deployment("serves"), deployment("fetches", model={"source": "hf://org/model"}))
    eventually(lambda: seen(plane, namespace), "a look at both", seconds=60)
    eventually(lambda: {"ReplicaSet", "Job"} <= {name.split("/")[0] for name in versions(plane, namespace)}, "children")
    before = eventually(lambda: steady(plane, namespace), "children that stay as they are", seconds=60)
    with engine(plane, namespace, "serves"), streaming(plane, directory, f"{namespace}/serves") as streams:
        streams.some()
        assert now.stop() == 0

        plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=crds(with_new_fields))
        after = Operator(plane, directory, name="next", port=free_port(LOOPBACK), settings=NEXT)
        apply(plane, namespace, deployment("marker", replicas=0))  # looked at after the others were
        eventually(lambda: seen(plane, namespace), "a look by the next version", seconds=60)
        assert versions(plane, namespace).items() >= before.items()
        rolled(plane, directory, streams)
        assert after.stop() == 0
        tell(plane, namespace, "serves", brandNew="a fact that only the next version knows")

        plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
        back = Operator(plane, directory, name="back", port=free_port(LOOPBACK))
        apply(plane, namespace, deployment("marker", replicas=0, gateway={"maxHeld": 7}))
        eventually(lambda: seen(plane, namespace), "a look by the old version", seconds=60)
        assert versions(plane, namespace).items() >= before.items()
        rolled(plane, directory, streams)
        live = next(item for item in listed(plane, namespace, "llmd") if item["metadata"]["name"] == "serves")
        assert "brandNew" not in live["spec"]
        assert back.stop() == 0


@contextmanager
def streaming(plane: ProxiedPlane, directory: Path, model: str) -> Iterator[Streams]:
    """Users of a model through a gateway; at the end all of them must have got all of their answers."""
    gateway = Gateway(plane.kubeconfig, directory / "gateway.log", drain_seconds=60)
    eventually(gateway.ready, "the gateway")
    streams = Streams(gateway, model, clients=4)
    try:
        yield streams
    finally:
        streams.end()
        streams.gateway.stop()
    assert streams.failed == []


def rolled(plane: ProxiedPlane, directory: Path, streams: Streams) -> None:
    """Replace the gateway as a Deployment does: the next one is ready before the old one is told to end."""
    old, new = streams.gateway, Gateway(plane.kubeconfig, directory / "gateway.log", drain_seconds=60)
    eventually(new.ready, "the next gateway")
    streams.gateway = new
    assert old.stop() == 0
    streams.some()


def tell(plane: ControlPlane, namespace: str, name: str, **facts: str) -> None:
    """The status with more in it, written as the operator writes it."""
    live = json.loads(plane.kubectl("get", "llmd", name, "-n", namespace, "-o", "json"))
    wanted = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": {"name": name}}
    text = json.dumps({**wanted, "status": {**live["status"], **facts}})
    how = ("--server-side", "--field-manager=llmops-operator-status", "--subresource=status", "-n", namespace)
    plane.kubectl("apply", *how, "-f", "-", stdin=text)


def steady(plane: ControlPlane, namespace: str) -> dict[str, tuple[str, int]] | None:
    """The children, if the two moments they were looked at in agree."""
    first = versions(plane, namespace)
    return first if first == versions(plane, namespace) else None


def test_a_new_chart_changes_no_engine(directory: Path) -> None:
    """The part of the operator's configuration that pods are made of does not follow the chart's version."""
    assert profiles(CHART) == profiles(newer(directory / "newer"))


def newer(folder: Path) -> Path:
    """The chart as its next version, with one more field in its CRDs."""
    shutil.copytree(CHART, folder)
    chart = folder / "Chart.yaml"
    chart.write_text(re.sub(r"(?m)^(version|appVersion): .*$", r"\1: 99.0.0", chart.read_text()))
    for path in (folder / "files" / "crds").glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())
        with_new_fields(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"])
        path.write_text(yaml.safe_dump(definition))
    return folder


def profiles(chart: Path) -> Any:
    rendered = subprocess.run([helm(), "template", "llmops", chart], check=True, capture_output=True, text=True).stdout
    (config,) = [
        yaml.safe_load(document["data"]["config.yaml"])
        for document in yaml.safe_load_all(rendered)
        if document and document["kind"] == "ConfigMap" and "config.yaml" in document["data"]
    ]
    return config["profiles"]


def helm() -> Path:
    return tools.program("helm", "helm")


def helmed(plane: ControlPlane, *arguments: str | Path) -> None:
    home = plane.directory / "helm"
    where = [f"--kubeconfig={plane.kubeconfig}", "-n", "installed"]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    subprocess.run(
        [helm(), *arguments, *where], check=True, capture_output=True, text=True, env=environment, timeout=120
    )


def has_new_field(plane: ControlPlane) -> bool:
    live = json.loads(plane.kubectl("get", "crd", "llmdeployments.llmops.dev", "-o", "json"))
    properties = live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return "brandNew" in properties["spec"]["properties"]


def test_a_release_goes_up_and_back_and_away_with_live_objects(tmp_path: Path) -> None:
    with ControlPlane(controllers=True) as plane:
        plane.kubectl("create", "namespace", "models")
        helmed(plane, "install", "llmops", CHART, "--create-namespace")
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        apply(plane, "models", *(deployment(f"m-{number}", replicas=0) for number in range(MANY)))
        helmed(plane, "upgrade", "llmops", newer(tmp_path / "newer"))
        assert has_new_field(plane)
        helmed(plane, "rollback", "llmops", "1")
        assert not has_new_field(plane)
        helmed(plane, "uninstall", "llmops")
        assert len(listed(plane, "models", "llmd")) == MANY
        helmed(plane, "install", "llmops", CHART, "--set", "crds.keep=false")
        assert len(listed(plane, "models", "llmd")) == MANY
        helmed(plane, "uninstall", "llmops")
        eventually(lambda: "llmops.dev" not in plane.kubectl("get", "crd", "-o", "name"), "no CRD", seconds=60)


def test_a_namespace_goes_while_no_operator_runs(plane: ProxiedPlane, directory: Path) -> None:
    namespace = "going"
    plane.kubectl("create", "namespace", namespace)
    operator = Operator(plane, directory, name="dies", port=free_port(LOOPBACK))
    apply(plane, namespace, *(deployment(f"m-{number}", replicas=0) for number in range(MANY)))
    eventually(lambda: seen(plane, namespace), "a look at all of them", seconds=120)
    operator.process.kill()
    operator.process.wait()
    plane.kubectl("delete", "namespace", namespace, "--timeout=120s")  # fails when something holds it
    assert namespace not in plane.kubectl("get", "namespaces", "-o", "name")
