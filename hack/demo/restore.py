"""A disaster and its end: a served model is backed up, all it was made of is deleted, and a bucket brings it back."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hack.cluster.progress import say
from hack.demo.__main__ import wait_until_ready
from hack.demo.install import HUB, Platform

Json = dict[str, Any]

NAME = "kept"
PROMPT = "What is a Python function?"
SECONDS = 600
KEYS = {
    "LLMOPS_REPOSITORY_KEY": "a key that is written down somewhere else, too",
    "AWS_ACCESS_KEY_ID": "DEMOACCESSKEYFORS3XX",
    "AWS_SECRET_ACCESS_KEY": "demo-secret-key-of-the-s3-server",
    "AWS_ENDPOINT_URL": f"http://demo-s3.{HUB}.svc",
    "AWS_REGION": "us-east-1",
}
LOCKED = {"objectLock": {"mode": "Governance", "days": 1}}


@dataclass(frozen=True)
class Lesson:
    """The steps, in a namespace of their own. `base` is the gateway's address."""

    platform: Platform
    base: str
    namespace: str

    def run(self) -> tuple[list[float], list[float]]:
        """Do all of it; the log-probabilities of the golden prompt's answer before and after."""
        self.create("hf://llmops/tiny-llama")
        before = self.golden()
        point = self.back_up()
        say(f"backed up as {point}; now the namespace goes, with its volumes")
        self.destroy()
        self.create(f"backup://{NAME}")
        after = self.golden()
        self.destroy()
        return before, after

    def create(self, source: str) -> None:
        """The namespace, the Secret with the key, and the model; returns when it answers."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}})
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": self.meta("backups"), "stringData": KEYS})
        backup = {"target": f"s3://backups/{self.namespace}", "secretRef": {"name": "backups"}, "weights": "Full"}
        spec = {
            "model": {"source": source, "storage": {"size": "1Gi"}},
            "engine": {"maxModelLen": 256},
            "replicas": 1,
            "backup": {**backup, **LOCKED},
        }
        self.apply({**ours("LLMDeployment"), "metadata": self.meta(NAME), "spec": spec})
        wait_until_ready(self.platform, NAME, self.namespace)

    def back_up(self) -> str:
        """One restore point, by hand; its name."""
        self.apply({**ours("ModelBackup"), "metadata": self.meta("before"), "spec": {"deployment": NAME}})

        def point() -> str:
            live = json.loads(self.platform.kubectl("get", "mbak", "before", "-n", self.namespace, "-o", "json"))
            found = {entry["type"]: entry for entry in live.get("status", {}).get("conditions", [])}
            if found.get("Failed", {}).get("status") == "True":
                raise RuntimeError(f"{found['Failed']['reason']}: {found['Failed']['message']}")
            done = found.get("Complete", {}).get("status") == "True"
            return str(live["status"]["point"]) if done else ""

        return eventually(point, "the restore point")

    def destroy(self) -> None:
        """The namespace and everything in it, waited for."""
        self.platform.kubectl("delete", "namespace", self.namespace, f"--timeout={SECONDS}s")

    def golden(self) -> list[float]:
        """Log-probabilities of the tokens that the model answers the golden prompt with."""
        body = {
            "model": f"{self.namespace}/{NAME}",
            "max_tokens": 16,
            "temperature": 0,
            "logprobs": True,
            "messages": [{"role": "user", "content": PROMPT}],
        }
        request = urllib.request.Request(
            f"{self.base}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            choice = json.load(answer)["choices"][0]
        return [token["logprob"] for token in choice["logprobs"]["content"]]

    def apply(self, manifest: Json) -> None:
        """kubectl apply."""
        self.platform.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def meta(self, name: str) -> Json:
        """Metadata of an object of this namespace."""
        return {"name": name, "namespace": self.namespace}


def ours(kind: str) -> Json:
    """The head of an object of our group."""
    return {"apiVersion": "llmops.dev/v1alpha1", "kind": kind}


def eventually(look: Callable[[], str], what: str, seconds: float = SECONDS) -> str:
    """What `look` returns as soon as it is not empty."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.25)
    raise TimeoutError(f"not within {seconds:.0f} s: {what}")
