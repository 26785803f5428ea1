"""The platform on a real node: installed once per test run, as `make demo` installs it."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import pytest
import yaml

from hack.cluster.gpus import advertise_gpus
from hack.cluster.provider import choose, providers
from hack.demo.__main__ import forwarded
from hack.demo.install import MONITORING, ONE_PROCESS, ROOT, Platform, installed
from hack.waiting import eventually
from tests.faultproxy.lane import client_of

Json = dict[str, Any]
T = TypeVar("T")

MODEL = "hf://llmops/tiny-llama"
# A device that the scheduler counts and vLLM does not need: real placement, real engine, no accelerator.
GPU_PROFILE = {
    "resource": "nvidia.com/gpu",
    "image": "IMAGE",
    "args": {"enforce-eager": ""},
    "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1", **ONE_PROCESS},
    "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
    "sharedMemory": "256Mi",
}


PATHS = {
    "llmd": "/apis/llmops.dev/v1alpha1/namespaces/{}/llmdeployments",
    "ftj": "/apis/llmops.dev/v1alpha1/namespaces/{}/finetunejobs",
    "deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "pod": "/api/v1/namespaces/{}/pods",
}
UP_BEFORE = pytest.StashKey[bool]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember whether the cluster was up, once for all workers."""
    if not hasattr(session.config, "workerinput"):
        with suppress(RuntimeError):  # no provider: whatever needs one says so
            session.config.stash[UP_BEFORE] = choose(None, providers()).running()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave the cluster as it was, once all workers are done with it."""
    if not session.config.stash.get(UP_BEFORE, True):
        choose(None, providers()).down()


@pytest.fixture(scope="session")
def platform() -> Platform:
    """The installed platform, as `make demo` installs it; a second worker finds it installed."""
    values = yaml.safe_load((ROOT / "helm" / "llmops" / "values.yaml").read_text())
    chart = {**values["profiles"]["cpu"], "image": "IMAGE"}  # the demo's differs from it
    return installed(
        {"gpu": GPU_PROFILE, "chart": chart},
        more=("trainer", "demo-model", "demo-s3", "demo-monitoring"),
        prometheus=f"http://prometheus.{MONITORING}:9090",  # there while a test has one
    )


@pytest.fixture(scope="session")
def gateway(platform: Platform) -> Iterator[str]:
    """Base URL of the gateway, through a port-forward as users have it."""
    with forwarded(platform) as base:
        yield base


@dataclass(frozen=True)
class Space:
    """A namespace that enforces the `restricted` Pod Security level, and what a user does in it."""

    platform: Platform
    client: httpx.Client
    name: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints in this namespace."""
        return self.platform.kubectl("-n", self.name, *arguments, stdin=stdin)

    def apply(self, name: str, **spec: Any) -> None:
        """kubectl apply of an LLMDeployment of the small model."""
        wanted = {
            "model": {"source": MODEL, "storage": {"size": "1Gi"}},
            "accelerator": {"profile": "cpu"},
            "engine": {"maxModelLen": 256},
            **({} if "autoscaling" in spec else {"replicas": 1}),
            **spec,
        }
        manifest = {
            "apiVersion": "llmops.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": name},
            "spec": wanted,
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def get(self, what: str, name: str = "", **query: str) -> Json:
        """One object as it is, or a list. A kubectl for every look would take the processor from what is waited for."""
        answer = self.client.get(f"{PATHS[what].format(self.name)}/{name}".rstrip("/"), params=query)
        answer.raise_for_status()
        found: Json = answer.json()
        return found

    def condition(self, name: str, kind: str = "Ready") -> Json:
        """One condition of the present generation; empty while there is none."""
        live = self.get("llmd", name)
        for entry in live.get("status", {}).get("conditions", []):
            if entry["type"] == kind and entry["observedGeneration"] == live["metadata"]["generation"]:
                return dict(entry)
        return {}

    def wait(self, name: str, reason: str, kind: str = "Ready", seconds: float = 600) -> Json:
        """The condition as soon as it has this reason."""
        last: Json = {}

        def look() -> Json | None:
            last.update(self.condition(name, kind))
            return last if last.get("reason") == reason else None

        try:
            return eventually(look, reason, seconds)
        except TimeoutError as late:
            pods = self.kubectl("get", "pods", "-o", "wide")
            raise AssertionError(f"{name} is not {kind}/{reason} after {seconds} s but {last}\n{pods}") from late

    def engines(self, name: str) -> list[Json]:
        """The metadata of the engine pods that are not on their way out."""
        labels = f"llmops.dev/deployment={name},app.kubernetes.io/component=engine"
        found = [item["metadata"] for item in self.get("pod", labelSelector=labels)["items"]]
        return [metadata for metadata in found if not metadata.get("deletionTimestamp")]

    def pods(self, name: str) -> list[str]:
        """Their names."""
        return [metadata["name"] for metadata in self.engines(name)]


@pytest.fixture(scope="session")
def client(platform: Platform) -> Iterator[httpx.Client]:
    """HTTP to the API server as an administrator."""
    with client_of(platform.provider.kubeconfig) as client:
        yield client


@pytest.fixture
def space(platform: Platform, client: httpx.Client, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace of the test's own, gone afterwards."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:40].strip("-")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    platform.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    space = Space(platform, client, name)
    yield space
    platform.kubectl("delete", "namespace", name, "--wait=false")
    # A pod that drains would keep its memory and its accelerator from the next test.
    platform.kubectl("delete", "pods", "--all", "-n", name, "--grace-period=1", "--wait=false")
    eventually(lambda: not space.get("pod")["items"], f"no pod in {name}")


@pytest.fixture
def gpus(platform: Platform) -> Iterator[Callable[[int], None]]:
    """Advertise so many accelerators on the node; none afterwards."""
    node = platform.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")

    def advertise(count: int) -> None:
        advertise_gpus(platform.kubectl, node, count)

    yield advertise
    advertise(0)


def ask(base: str, model: str, *, seconds: float = 300, **options: Any) -> Json:
    """One chat request; the answer, or the gateway's error with its `status`."""
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "What is a list?"}], **options}
    request = urllib.request.Request(
        f"{base}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return {"status": answer.status, **json.load(answer)}
    except urllib.error.HTTPError as refusal:
        return {"status": refusal.code, **json.load(refusal)}
