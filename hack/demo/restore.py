"""A disaster and its end: model and adapter are backed up, all is deleted, and a bucket brings both back."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from hack.cluster.progress import say
from hack.demo.__main__ import wait_until_ready
from hack.demo.install import HUB, ROOT, Platform
from hack.waiting import eventually

Json = dict[str, Any]
Answers = dict[str, list[float]]

EXAMPLE = ROOT / "manifests" / "examples" / "finetune.yaml"
NAME, ADAPTER = "captain", "captain-tuned"
PROMPT = "What is a list?"
SECONDS = 900
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

    def run(self) -> tuple[Answers, Answers]:
        """Do all of it; by model, the log-probabilities of the golden prompt's answer before and after."""
        self.begin()
        self.kubectl("apply", "-f", str(EXAMPLE))
        self.kubectl("patch", "llmd", NAME, "--type=merge", "-p", json.dumps({"spec": {"backup": self.backup()}}))
        eventually(self.served, "an engine with the adapter", SECONDS)
        before = self.golden()
        point = self.back_up()
        say(f"backed up as {point}; now the namespace goes, with its volumes")
        self.destroy()
        self.begin()
        self.restore(f"backup://{point}")
        eventually(self.served, "an engine with the adapter", SECONDS)
        after = self.golden()
        self.destroy()
        return before, after

    def begin(self) -> None:
        """The namespace, and the Secret with the key."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}})
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": self.meta("backups"), "stringData": KEYS})

    def backup(self) -> Json:
        """Where the points are, and that nobody deletes them."""
        return {
            "target": f"s3://backups/{self.namespace}",
            "secretRef": {"name": "backups"},
            "weights": "Full",
            **LOCKED,
        }

    def restore(self, source: str) -> None:
        """The model and its adapter from a point; returns when the model answers."""
        spec = {
            "model": {"source": source, "storage": {"size": "1Gi"}},
            "adapters": [{"name": ADAPTER, "source": source}],
            "engine": {"maxModelLen": 512},
            "replicas": 1,
            "backup": self.backup(),
        }
        self.apply({**ours("LLMDeployment"), "metadata": self.meta(NAME), "spec": spec})
        wait_until_ready(self.platform, NAME, self.namespace)

    def served(self) -> str:
        """Not empty when every engine provably serves the adapter.

        Raises:
            RuntimeError: it cannot be trained, or an engine cannot serve it.
        """
        made = json.loads(self.kubectl("get", "ftj", "-o", "json"))["items"]
        failed = [entry for each in made for entry in conditions(each) if entry["type"] == "Failed"]
        if failed and failed[0]["status"] == "True":
            raise RuntimeError(f"{failed[0]['reason']}: {failed[0]['message']}")
        live = json.loads(self.kubectl("get", "llmd", NAME, "-o", "json"))
        found = next((entry for entry in conditions(live) if entry["type"] == "AdaptersReady"), {})
        if found.get("reason") in ("AdapterNoEffect", "AdapterMismatch", "AdapterLoadFailed"):
            raise RuntimeError(f"{found['reason']}: {found['message']}")
        return "yes" if found.get("status") == "True" else ""

    def back_up(self) -> str:
        """One restore point, by hand; its name."""
        self.apply({**ours("ModelBackup"), "metadata": self.meta("before"), "spec": {"deployment": NAME}})

        def point() -> str:
            live = json.loads(self.kubectl("get", "mbak", "before", "-o", "json"))
            found = {entry["type"]: entry for entry in conditions(live)}
            if found.get("Failed", {}).get("status") == "True":
                raise RuntimeError(f"{found['Failed']['reason']}: {found['Failed']['message']}")
            done = found.get("Complete", {}).get("status") == "True"
            return str(live["status"]["point"]) if done else ""

        return eventually(point, "the restore point", SECONDS)

    def destroy(self) -> None:
        """The namespace and everything in it, waited for."""
        self.platform.kubectl("delete", "namespace", self.namespace, f"--timeout={SECONDS}s")

    def golden(self) -> Answers:
        """Log-probabilities of the tokens with which model and adapter answer the golden prompt."""
        return {model: self.log_probabilities(model) for model in (NAME, ADAPTER)}

    def log_probabilities(self, model: str) -> list[float]:
        """One answer's, through the gateway."""
        body = {
            "model": f"{self.namespace}/{model}",
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
        say(f"{model}: {choice['message']['content']}")
        return [token["logprob"] for token in choice["logprobs"]["content"]]

    def apply(self, manifest: Json) -> None:
        """kubectl apply."""
        self.platform.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints, of this namespace."""
        return self.platform.kubectl("-n", self.namespace, *arguments)

    def meta(self, name: str) -> Json:
        """Metadata of an object of this namespace."""
        return {"name": name, "namespace": self.namespace}


def conditions(live: Json) -> list[Json]:
    """What an object's status says."""
    return list(live.get("status", {}).get("conditions", []))


def ours(kind: str) -> Json:
    """The head of an object of our group."""
    return {"apiVersion": "llmops.dev/v1alpha1", "kind": kind}
