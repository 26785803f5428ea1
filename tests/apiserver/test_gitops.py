"""What Argo CD and Flux do with us: their own CRDs take our examples, nothing goes out of sync, and health is told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import tools
from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually
from tests.apiserver.operating import ROOT, ProxiedPlane, audited_plane, own_plane
from tests.fixtures.health import CASES, NAMES, manifest

Json = dict[str, Any]
GITOPS = ROOT / "manifests" / "gitops"
EXAMPLES = sorted([*(ROOT / "manifests" / "examples").glob("*.yaml"), *(GITOPS / "models").glob("*.yaml")])
# The CRDs as their projects publish them, by Go module and digest.
BASES = "config/crd/bases"
PUBLISHED = [
    (
        "github.com/argoproj/argo-cd/v3@v3.3.2",
        "h1:kVHBj5Z0Wm2D6s69l0q6lC/WH5tc4E1peXgEEOPrLLU=",
        "manifests/crds/application-crd.yaml",
    ),
    (
        "github.com/fluxcd/source-controller@v1.8.0",
        "h1:h549HUCBEG4jGs3uFYfb2+/XhJjcz+pvB8VG4mdSYDw=",
        f"{BASES}/source.toolkit.fluxcd.io_gitrepositories.yaml",
    ),
    (
        "github.com/fluxcd/kustomize-controller@v1.7.3",
        "h1:SzNnGn/4ObAPEHHleM5U7y/AKxKXph3Vj6ZhteeXw8M=",
        f"{BASES}/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
    ),
    (
        "github.com/fluxcd/helm-controller@v1.6.0",
        "h1:jlS5X11SG26gspubB5aLrdVSCm0q0tA4ULsY+vwSkL0=",
        f"{BASES}/helm.toolkit.fluxcd.io_helmreleases.yaml",
    ),
]
WAVE = "argocd.argoproj.io/sync-wave"
TOOLS_OBJECTS = [*(GITOPS / "argocd").rglob("*.yaml"), *(GITOPS / "flux").glob("*.yaml")]


plane = own_plane(audited_plane)


@pytest.fixture(scope="module")
def toolbox(plane: ProxiedPlane) -> None:
    """Argo CD's and Flux' kinds and namespaces."""
    for pin, digest, path in PUBLISHED:
        plane.kubectl("apply", "--server-side", "-f", str(tools.module_source(pin, digest) / path))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    for name in ("argocd", "flux-system"):
        plane.kubectl("create", "namespace", name)


@pytest.mark.usefixtures("toolbox")
@pytest.mark.parametrize("path", TOOLS_OBJECTS, ids=lambda path: str(path.relative_to(GITOPS)))
def test_the_tools_own_definitions_take_the_examples(plane: ControlPlane, path: Path) -> None:
    said = plane.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert "serverside-applied" in said


def test_applications_lead_to_what_is_there_and_models_come_after_their_kinds() -> None:
    root = yaml.safe_load((GITOPS / "argocd" / "app-of-apps.yaml").read_text())
    assert (ROOT / root["spec"]["source"]["path"]).is_dir()
    apps = [yaml.safe_load(path.read_text()) for path in (ROOT / root["spec"]["source"]["path"]).glob("*.yaml")]
    waves = {app["metadata"]["name"]: int(app["metadata"]["annotations"][WAVE]) for app in apps}
    assert waves["llmops"] < waves["llmops-models"]
    for app in apps:
        assert (ROOT / app["spec"]["source"]["path"]).is_dir()
    flux = list(yaml.safe_load_all((GITOPS / "flux" / "llmops.yaml").read_text()))
    (release,) = [each for each in flux if each["kind"] == "HelmRelease"]
    (models,) = [each for each in flux if each["kind"] == "Kustomization"]
    assert (ROOT / release["spec"]["chart"]["spec"]["chart"] / "Chart.yaml").is_file()
    assert (ROOT / models["spec"]["path"]).is_dir()
    assert models["spec"]["wait"] is True


def looked_at(plane: ControlPlane, namespace: str) -> bool:
    """Whether the operator has judged every object of ours in the namespace."""
    kinds = "llmdeployments,finetunejobs"
    items = json.loads(plane.kubectl("get", kinds, "-n", namespace, "-o", "json"))["items"]
    return all(item["status"]["observedGeneration"] == item["metadata"]["generation"] for item in items)


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("how", ["--server-side", "--server-side=false"], ids=["server-side", "client-side"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_nothing_goes_out_of_sync(plane: ControlPlane, path: Path, how: str) -> None:
    namespace = f"sync-{path.stem}-{'client' if 'false' in how else 'server'}"
    plane.kubectl("create", "namespace", namespace)
    plane.kubectl("apply", how, "-n", namespace, "-f", str(path))
    eventually(lambda: looked_at(plane, namespace), "a look at every object", seconds=60)
    plane.kubectl("diff", how, "-n", namespace, "-f", str(path))  # fails when there is one


def kstatus(*objects: Json) -> list[str]:
    """What Flux' own library says of them."""
    program = tools.program("kstatus", "kstatus")
    lines = "\n".join(json.dumps(each) for each in objects)
    return subprocess.run([program], input=lines, check=True, capture_output=True, text=True).stdout.split()


def test_kstatus_tells_not_looked_at_from_on_the_way_from_failed() -> None:
    told = kstatus(*(manifest(case) for case in CASES))
    assert dict(zip(NAMES, told, strict=True)) == {n: case["kstatus"] for n, case in zip(NAMES, CASES, strict=True)}


def live(plane: ControlPlane, namespace: str, name: str = "m") -> Json:
    found: Json = json.loads(plane.kubectl("get", "llmd", name, "-n", namespace, "-o", "json"))
    return found


@pytest.mark.usefixtures("operator")
def test_kstatus_follows_a_live_object(plane: ControlPlane) -> None:
    namespace = "kstatus"
    plane.kubectl("create", "namespace", namespace)
    meta = {"name": "m", "namespace": namespace}
    spec: Json = {"model": {"source": "oci://models/tiny:1"}, "replicas": 0, "accelerator": {"profile": "h100"}}
    wanted = {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": spec}
    created = json.loads(plane.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(wanted)))
    assert kstatus(created) == ["InProgress"]
    eventually(lambda: kstatus(live(plane, namespace)) == ["Failed"], "Failed for an unknown profile", seconds=60)
    spec["accelerator"] = {"profile": "cpu"}
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(wanted))
    plane.kubectl("wait", "--for=condition=Ready", "llmd/m", "-n", namespace, "--timeout=60s")
    eventually(lambda: kstatus(live(plane, namespace)) == ["Current"], "Current when asleep", seconds=60)
