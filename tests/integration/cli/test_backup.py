"""`llmops backup` against a real API server: a point now, followed to its end, and a deployment put on a point."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from hack.cluster.controlplane import ControlPlane
from tests.integration.cli.conftest import Cli
from tests.integration.conftest import eventually

Json = dict[str, Any]
BACKUP = {"target": "s3://backups/llm", "secretRef": {"name": "s3"}, "weights": "Pointer"}
POINT = "kept@2026-11-20T03:00:00Z"


@pytest.fixture(scope="module")
def deployment(plane: ControlPlane) -> str:
    model = {"source": "hf://org/model", "revision": "main", "secretRef": {"name": "hf"}}
    spec = {"model": model, "replicas": 1, "backup": BACKUP}
    manifest = {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "kept"},
        "spec": spec,
    }
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    return "kept"


def finish(plane: ControlPlane, name: str, kind: str, reason: str) -> None:
    """What the operator writes at a point's end."""
    moment = "2026-11-20T03:01:00Z"
    entry = {"type": kind, "status": "True", "reason": reason, "message": "3 files.", "lastTransitionTime": moment}
    status = {"observedGeneration": 1, "conditions": [entry], "point": POINT}
    plane.kubectl("patch", f"mbak/{name}", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def points(plane: ControlPlane) -> set[str]:
    return {line.rpartition("/")[2] for line in plane.kubectl("get", "mbak", "-o", "name").split()}


@pytest.mark.parametrize(
    ("kind", "reason", "code", "says"),
    [("Complete", "Completed", 0, f"{POINT}: Completed"), ("Failed", "TargetAccessDenied", 1, "TargetAccessDenied")],
)
def test_a_point_now_is_followed_to_its_end(
    plane: ControlPlane, cli: Cli, deployment: str, *, kind: str, reason: str, code: int, says: str
) -> None:
    before = points(plane)
    command = cli.command("backup", "now", deployment, "-f", "--interval", "0.1")
    process = subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE, text=True)
    eventually(lambda: len(points(plane) - before) == 1, seconds=60)
    finish(plane, next(iter(points(plane) - before)), kind, reason)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert says in output


def test_points_are_listed_and_a_deployment_is_put_on_one(plane: ControlPlane, cli: Cli, deployment: str) -> None:
    made = cli("backup", "now", deployment, "--hold")
    assert (made.code, made.err) == (0, "")
    name = made.out.split()[0].rpartition("/")[2]
    assert json.loads(plane.kubectl("get", "mbak", name, "-o", "json"))["spec"] == {"deployment": "kept", "hold": True}
    finish(plane, name, "Complete", "Completed")
    assert POINT in cli("backup", "list").out
    done = cli("backup", "restore", deployment, "--point", POINT)
    assert (done.code, done.err) == (0, "")
    spec = json.loads(plane.kubectl("get", "llmd", deployment, "-o", "json"))["spec"]
    assert spec["model"]["source"] == f"backup://{POINT}"
    assert not {"revision", "secretRef"} & set(spec["model"])
    assert spec["backup"]["weights"] == "Auto"


def test_what_cannot_be_is_one_line(cli: Cli) -> None:
    assert cli("backup", "now", "nobody").code == 3
