"""Many small LLMDeployments, a user who changes them, and whether their Deployments have followed."""

from __future__ import annotations

import time

import httpx

from tests.faultproxy.kubelet import PodStatuses
from tests.faultproxy.lane import Site, client_of
from tests.faultproxy.workflows import Hands, Json

SMALL: Json = {"model": {"source": "oci://models/tiny:1"}, "replicas": 0}  # no weights Job, and no pod
POLL_SECONDS = 0.2


class Models:
    """`count` LLMDeployments in one namespace of a site; what is changed is the port of nobody: the longest prompt."""

    def __init__(self, site: Site, count: int, *, namespace: str | None = None) -> None:
        self.client: httpx.Client = client_of(site.administrator)
        self.hands = Hands(self.client, PodStatuses(self.client), namespace or site.namespaces[0], site.name)
        self.wanted = {f"m-{number}": 0 for number in range(count)}

    def create(self) -> None:
        for name in self.wanted:
            self.hands.create("LLMDeployment", "llmdeployments", SMALL, name)

    def change(self, name: str) -> None:
        """Ask for a little more."""
        self.wanted[name] += 1
        self.hands.change("llmdeployments", {"spec": {"engine": {"maxModelLen": self.wanted[name]}}}, name)

    def touch(self, name: str, waiting: int) -> None:
        """Ask for something that needs no other pods: how many requests may wait."""
        self.hands.change("llmdeployments", {"spec": {"gateway": {"maxHeld": waiting}}}, name)

    def lagging(self) -> list[str]:
        """The objects whose Deployment is not as their spec says, or whose status is of an older spec."""
        path = f"/apis/apps/v1/namespaces/{self.hands.namespace}/deployments"
        found = {item["metadata"]["name"]: str(item["spec"]) for item in self._items(path)}
        told = {
            item["metadata"]["name"]
            for item in self._items(self.hands.path("llmdeployments"))
            if item.get("status", {}).get("observedGeneration") == item["metadata"]["generation"]
        }
        return [
            name
            for name, length in self.wanted.items()
            if name not in told
            or (f"--max-model-len={length}'" if length else "'") not in found.get(f"{name}-engine", "")
        ]

    def settled(self, seconds: float = 240) -> float:
        """How long it takes until nothing lags, in seconds; infinite when it takes longer than that."""
        begun = time.monotonic()
        while self.lagging():
            if time.monotonic() - begun > seconds:
                return float("inf")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - begun

    def _items(self, path: str) -> list[Json]:
        answer = self.client.get(path)
        while answer.status_code == httpx.codes.TOO_MANY_REQUESTS:  # an API server that has just started
            time.sleep(POLL_SECONDS)
            answer = self.client.get(path)
        answer.raise_for_status()
        items: list[Json] = answer.json()["items"]
        return items
