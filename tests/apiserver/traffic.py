"""Users of a model: a gateway as a process, an engine behind it, and streams that must all come to their ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from hack.cluster.controlplane import LOOPBACK, ControlPlane, free_port
from hack.waiting import eventually
from llmops import names
from tests.apiserver.operating import ROOT

ENGINE = ROOT / "tests" / "integration" / "gateway" / "engine.py"


class Gateway:
    """One gateway process; `url` is where it answers, `internal` the port of its probes, metrics and load stream."""

    def __init__(self, kubeconfig: Path, log: Path, *, drain_seconds: int = 0) -> None:
        port, self.internal = free_port(LOOPBACK), free_port(LOOPBACK)
        self.url = f"http://{LOOPBACK}:{port}"
        command = [sys.executable, "-m", "llmops_serving.gateway", f"--kubeconfig={kubeconfig}", f"--host={LOOPBACK}"]
        command += [f"--port={port}", f"--metrics-port={self.internal}", f"--drain-seconds={drain_seconds}"]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'serving'}"}
        with log.open("ab") as out:
            self._process = subprocess.Popen([*command, "--workers=1"], env=environment, stdout=out, stderr=out)

    def ready(self) -> bool:
        """Whether it knows the models and takes requests."""
        try:
            return httpx.get(f"http://{LOOPBACK}:{self.internal}/readyz", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> int:
        """End it as Kubernetes ends a pod; 0 when every request under way came to its end."""
        self._process.terminate()
        return self._process.wait(timeout=120)


@contextmanager
def engine(plane: ControlPlane, namespace: str, name: str) -> Iterator[None]:
    """An engine of an LLMDeployment, in what the gateway takes for a pod; the operator does not know it."""
    port = free_port(LOOPBACK)
    process = subprocess.Popen([sys.executable, str(ENGINE), str(port)])
    container = {"name": "engine", "image": "engine:1", "ports": [{"name": "http", "containerPort": port}]}
    labels = {names.LABEL_DEPLOYMENT: name, names.LABEL_COMPONENT: names.ENGINE_COMPONENT}
    meta = {"name": f"{name}-here", "namespace": namespace, "labels": labels}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}
    status = {"phase": "Running", "podIP": LOOPBACK, "podIPs": [{"ip": LOOPBACK}]}
    ready = {"status": {**status, "conditions": [{"type": "Ready", "status": "True"}]}}
    try:
        plane.kubectl("create", "-f", "-", stdin=json.dumps(pod))
        where = ["-n", namespace, f"{name}-here", "--subresource=status", "--type=merge"]
        plane.kubectl("patch", "pod", *where, "-p", json.dumps(ready))
        yield
    finally:
        process.kill()
        process.wait()


class Streams:
    """`clients` users who stream one answer after the other through `gateway`, which may be replaced meanwhile.

    Attributes:
        whole: How many answers came to their ends.
        failed: What became of the others.
    """

    def __init__(self, gateway: Gateway, model: str, *, clients: int) -> None:
        self.gateway, self._model = gateway, model
        self.whole, self.failed = 0, list[str]()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._user, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def some(self) -> None:
        """Wait until every user has had two more answers: what happens meanwhile happened under traffic."""
        wanted = self.whole + 2 * len(self._threads)
        eventually(lambda: self.whole >= wanted or self.failed, "answers")

    def end(self) -> None:
        """Let the answers under way come to their ends."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _user(self) -> None:
        gateway, client = self.gateway, httpx.Client(timeout=120)
        while not self._ended.is_set():
            if gateway is not self.gateway:  # as a Service leads new connections to pods that are ready
                gateway, client = self.gateway, httpx.Client(timeout=120)
            said = self._asked(client, gateway.url)
            with self._lock:
                self.whole += not said
                self.failed += [said] * bool(said)

    def _asked(self, client: httpx.Client, url: str) -> str:
        """One answer; what was wrong with it."""
        body = {"model": self._model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        last = ""
        try:
            with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                for line in response.iter_lines():
                    last = line or last
        except httpx.HTTPError as error:
            return repr(error)
        return "" if (response.status_code, last) == (200, "data: [DONE]") else f"{response.status_code}: {last}"
