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

from hack.cluster.controlplane import LOOPBACK, ControlPlane, free_port
from tests.apiserver.operating import ROOT, Operator, ProxiedPlane


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """etcd, API server and controllers; the CRDs of `crds/` are established. `own_plane` gives a module another."""
    with ControlPlane(controllers=True) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield plane


@pytest.fixture(scope="session")
def client(plane: ControlPlane) -> Iterator[httpx.Client]:
    """HTTP to the API server as an administrator."""
    with client_of(plane.kubeconfig) as client:
        yield client


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Where a module's logs go."""
    return tmp_path_factory.mktemp(request.module.__name__.rpartition(".test_")[2])


@pytest.fixture(scope="module")
def operator(plane: ProxiedPlane, directory: Path) -> Iterator[Operator]:
    """One operator for a whole module; it ends well, unless a test ended it."""
    operator = Operator(plane, directory, port=free_port(LOOPBACK))
    yield operator
    if operator.process.poll() is None:
        assert operator.stop() == 0


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    """A namespace called like the test, a new one whenever it is tried again."""
    letters = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower())
    name = letters.removeprefix("test-")[:50].strip("-")
    if (times := getattr(request.node, "execution_count", 1)) > 1:
        name += f"-{times}"
    plane.kubectl("create", "namespace", name)
    return name


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
