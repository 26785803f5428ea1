"""A real API server with our definitions, shared by every test of this tier."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hack.cluster.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """etcd, API server and controllers; the CRDs of `crds/` are established."""
    with ControlPlane(controllers=True) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield plane


@pytest.fixture(scope="session")
def client(plane: ControlPlane) -> Iterator[httpx.Client]:
    """HTTP to the API server as an administrator."""
    with client_of(plane.kubeconfig) as client:
        yield client


def client_of(kubeconfig: Path) -> httpx.Client:
    """HTTP to the API server as the user of a kubeconfig file."""
    content = json.loads(kubeconfig.read_text())
    cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
    context = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]))
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
        pair.write(_decoded(user["client-certificate-data"]) + _decoded(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    return httpx.Client(base_url=cluster["server"], verify=context, timeout=30)


def _decoded(data: str) -> str:
    return base64.b64decode(data).decode()
