"""KWOK's nodes: the real scheduler places pods on them, and KWOK says what a kubelet would."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.cluster import tools
from hack.cluster.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]
NODES = 10
CAPACITY = {"cpu": "1000", "memory": "1000Gi", "pods": "1000"}


def stages() -> list[Path]:
    """KWOK's own rules for nodes and pods that do everything at once; its program comes without any."""
    module = ROOT / "hack" / "tools" / "kwok"
    listed = ["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"]
    source = Path(subprocess.run(listed, cwd=module, check=True, capture_output=True, text=True).stdout.strip())
    return sorted((source / "kustomize" / "stage").glob("*/fast/*-*.yaml"))


@contextmanager
def kwok(plane: ControlPlane, folder: Path) -> Iterator[None]:
    """So many nodes with room for everything."""
    items = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"kwok-{number}", "annotations": {"kwok.x-k8s.io/node": "fake"}},
            "status": {"allocatable": CAPACITY, "capacity": CAPACITY},
        }
        for number in range(NODES)
    ]
    plane.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    command = [str(tools.program("kwok", "kwok")), f"--kubeconfig={plane.kubeconfig}", "--manage-all-nodes=true"]
    command += ["--node-lease-duration-seconds=40", *(f"--config={stage}" for stage in stages())]
    with (folder / "kwok.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            plane.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s")
            yield
        finally:
            process.terminate()
