"""Operators with a Lease, rights and namespaces of their own, behind a proxy of their own.

Several lanes share one control plane, so that a matrix of kills is not a matrix of control planes.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from hack.cluster.controlplane import ControlPlane, free_port
from hack.waiting import eventually
from llmops.shell.connection import from_kubeconfig
from tests.apiserver.operating import RIGHTS, ROOT, chart, groups, started
from tests.faultproxy.proxy import FaultProxy

RESYNC_SECONDS = 30  # the least: what only a resync mends shall be seen within the minute
HARDLY_EVER = {"resyncSeconds": 3600}  # for what shall be told by watches


def client_of(kubeconfig: Path) -> httpx.Client:
    """HTTP to the API server as the user of a kubeconfig file, for many threads."""
    link = from_kubeconfig(kubeconfig)
    assert link.tls is not None
    return httpx.Client(base_url=link.url, verify=link.tls, timeout=60, limits=httpx.Limits(max_connections=None))


class Site:
    """Rights, namespaces and a proxy for the operators of one Lease, which lies in the namespace `name`."""

    def __init__(self, plane: ControlPlane, directory: Path, name: str, namespaces: list[str], **config: Any) -> None:
        self.name, self.namespaces, self.administrator = name, namespaces, plane.kubeconfig
        self._plane, self._directory = plane, directory / name
        self._config = {
            "namespaces": namespaces,
            "resyncSeconds": RESYNC_SECONDS,
            "gateway": {"namespace": name},
            **config,
        }

    def __enter__(self) -> Self:
        self._directory.mkdir()
        spaces = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}}
            for space in (self.name, *self.namespaces)
        ]
        self._apply(yaml.safe_dump_all(spaces))
        self._apply(chart("--set-json", f"namespaces={json.dumps(self.namespaces)}", namespace=self.name, kept=RIGHTS))
        account = f"system:serviceaccount:{self.name}:llmops-operator"
        self.proxy = FaultProxy(self._plane.kubeconfig_for(account, groups(account))).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.proxy.__exit__(kind, error, trace)

    def start(self, replica: str, *, clock: str = "") -> subprocess.Popen[bytes]:
        """One operator process, called `replica`, as its pod; `clock` is what its own is wrong by."""
        port, home = free_port("127.0.0.1"), self.name
        return started(self.proxy, self._directory, name=replica, port=port, home=home, clock=clock, **self._config)

    def log(self, replica: str) -> Path:
        return self._directory / f"{replica}.log"

    def _apply(self, manifests: str) -> None:
        self._plane.kubectl("apply", "--server-side", "-f", "-", stdin=manifests)


class Lane(Site):
    """One operator that serves `namespaces`, which are made; killed, it is started again.

    Attributes:
        proxy: Where its faults are planned.
        begun: When the operator process that runs now was started, by the monotonic clock.
        exits: The exit statuses of operators that ended and were not killed by a fault.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        self.exits: list[int] = []
        self._closing = False
        self._start()
        self._supervisor = threading.Thread(target=self._supervise, name=self.name, daemon=True)
        self._supervisor.start()
        log = self.log(self.name)
        eventually(lambda: b'"working"' in log.read_bytes(), f"{self.name} to work; see {log}", seconds=180)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        super().__exit__(kind, error, trace)

    def stop(self) -> None:
        """End the operator for good."""
        self._closing = True
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._supervisor.join(timeout=60)

    def _start(self) -> None:
        self.process = self.start(self.name)
        self.begun = time.monotonic()

    def _supervise(self) -> None:
        while not self._closing:
            status = self.process.wait()
            if self._closing:
                return
            if status != -signal.SIGKILL:
                self.exits.append(status)
            self._start()


@contextmanager
def ground() -> Iterator[ControlPlane]:
    """A control plane for lanes: the CRDs, and controllers that need not wait for their own rate limits."""
    with ControlPlane(client_qps=300) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        plane.start_controllers()
        yield plane
