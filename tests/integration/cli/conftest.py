"""The command line as a process, against a real API server, as an administrator and as a reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.controlplane import ControlPlane

ROOT = Path(__file__).parents[3]
READER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [llmops.dev], resources: ["*"], verbs: [get, list]}
- {apiGroups: [apps], resources: [deployments], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: User, name: rita, apiGroup: rbac.authorization.k8s.io}]
"""


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """`llmops` with a kubeconfig."""

    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str = "", seconds: float = 60) -> Answer:
        done = subprocess.run(
            self.command(*arguments),
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=self.environment,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from llmops.cli import main; main()", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        plane.kubectl("apply", "-f", "-", stdin=READER)
        yield plane


@pytest.fixture
def cli(plane: ControlPlane) -> Cli:
    return Cli(plane.kubeconfig)


@pytest.fixture
def reader(plane: ControlPlane) -> Cli:
    return Cli(plane.kubeconfig_for("rita", []))


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    """A namespace of this test alone."""
    name = "t-" + "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower())[:50].strip("-")
    plane.kubectl("create", "namespace", name)
    return name
