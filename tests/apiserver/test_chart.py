"""The chart on a real API server: every rendering is taken strictly, and its rights are no wider than they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import tools
from hack.cluster.controlplane import ControlPlane
from tests.apiserver.schemas import write_schemas

ROOT = Path(__file__).parents[2]
SYSTEM = "llmops-system"
Json = dict[str, Any]

RENDERINGS: list[tuple[str, list[str]]] = [
    ("defaults", []),
    ("two of each", ["--set", "operator.replicas=2,gateway.replicas=2"]),
    ("two namespaces only", ["--set", "namespaces={team-a,team-b}"]),
    ("keys asked for", ["--set", "gateway.requireKeys=true"]),
    (
        "a registry of one's own",
        ["--set", "global.imageRegistry=registry.example.com/mirror,global.imagePullSecrets={pull}"],
    ),
    ("no network policies, no CRDs", ["--set", "networkPolicy.enabled=false,crds.enabled=false"]),
]


def rendered(*settings: str) -> list[Json]:
    helm = tools.program("helm", "helm")
    command = [helm, "template", "llmops", ROOT / "helm" / "llmops", "-n", SYSTEM, *settings]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.fixture(scope="module", autouse=True)
def namespaces(plane: ControlPlane) -> None:
    for name in (SYSTEM, "team-a", "team-b"):
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    plane.kubectl("label", "namespace", SYSTEM, "--overwrite", "pod-security.kubernetes.io/enforce=restricted")


@pytest.mark.parametrize("settings", [case[1] for case in RENDERINGS], ids=[case[0] for case in RENDERINGS])
def test_every_rendering_is_taken_strictly(plane: ControlPlane, settings: list[str]) -> None:
    documents = [document for document in rendered(*settings) if "test" not in document["metadata"]["name"]]
    plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(documents))


@pytest.fixture(scope="module")
def kubeconform(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """kubeconform, strict, with the schemas of the API server."""
    schemas = write_schemas(
        json.loads(plane.kubectl("get", "--raw", "/openapi/v2")), tmp_path_factory.mktemp("schemas")
    )
    return [tools.program("kubeconform", "kubeconform"), "-strict", "-summary", "-schema-location", schemas]


@pytest.mark.parametrize("settings", [case[1] for case in RENDERINGS], ids=[case[0] for case in RENDERINGS])
def test_kubeconform_takes_every_rendering(kubeconform: list[str | Path], settings: list[str]) -> None:
    text = yaml.safe_dump_all(rendered(*settings))
    done = subprocess.run(kubeconform, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubeconform_takes_what_is_applied_by_hand(kubeconform: list[str | Path]) -> None:
    manifests = ROOT / "manifests"  # gitops/ and examples/monitoring/ are for other people's kinds and programs
    applied = [manifests / "install.yaml", *sorted((manifests / "examples").glob("*.yaml"))]
    done = subprocess.run([*kubeconform, *applied], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubeconform_finds_a_misspelled_field(kubeconform: list[str | Path]) -> None:
    text = yaml.safe_dump_all(rendered()).replace("terminationGracePeriodSeconds", "terminationGracePeriod")
    done = subprocess.run(kubeconform, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "terminationGracePeriod' not allowed" in done.stdout


def test_the_restricted_level_takes_every_pod(plane: ControlPlane) -> None:
    for document in rendered():
        template = document if document["kind"] == "Pod" else document.get("spec", {}).get("template")
        if not template or document["kind"] == "CustomResourceDefinition":
            continue
        spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": SYSTEM}, "spec": spec}
        plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def test_a_misspelled_value_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        rendered("--set", "operator.replica=2")
    assert "replica" in refusal.value.stderr


def rules(kind: str, *settings: str) -> list[tuple[str, Json]]:
    found = [document for document in rendered(*settings) if document["kind"] == kind]
    return [(document["metadata"]["name"], rule) for document in found for rule in document["rules"]]


def test_no_right_is_a_wildcard_and_the_operator_reads_no_secret() -> None:
    granted = [*rules("ClusterRole"), *rules("Role"), *rules("Role", "--set", "gateway.requireKeys=true")]
    for name, rule in granted:
        for field in ("apiGroups", "resources", "verbs"):
            assert "*" not in rule[field], (name, rule)
        if "operator" in name:
            assert "secrets" not in rule["resources"]
        forbidden = {
            "pods/exec",
            "clusterroles",
            "rolebindings",
            "customresourcedefinitions",
            "validatingwebhookconfigurations",
        }
        assert not forbidden & set(rule["resources"])
        assert not ("llmdeployments" in rule["resources"] and {"update", "patch", "delete"} & set(rule["verbs"]))


def test_a_namespaced_installation_has_no_right_outside() -> None:
    kinds = {document["kind"] for document in rendered("--set", "namespaces={team-a}")}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding"}


def test_the_chart_lints() -> None:
    helm = tools.program("helm", "helm")
    subprocess.run([helm, "lint", "--strict", ROOT / "helm" / "llmops"], check=True, capture_output=True)


def test_the_charts_own_unit_tests_pass() -> None:
    unittest = tools.program("helm-unittest", "helm-unittest")
    done = subprocess.run([unittest, ROOT / "helm" / "llmops"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_printed_from_the_code_is_current() -> None:
    done = subprocess.run([sys.executable, "-m", "hack.chart"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
