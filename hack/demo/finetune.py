"""A model is taught to answer otherwise: rows checked, an adapter trained, loaded into the running engine, compared."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

from hack.cluster.progress import say
from hack.demo.install import ROOT, Platform
from hack.demo.restore import SECONDS
from hack.waiting import eventually

Json = dict[str, Any]

EXAMPLE = ROOT / "manifests" / "examples" / "finetune.yaml"
MODEL, ADAPTER, JOB = "captain", "captain-tuned", "captain-style"
QUESTION = "What is a list?"
STYLE = "Ahoy!"
BUSY_SECONDS = 2400  # two processors that have other work import torch for minutes


@dataclass(frozen=True)
class School:
    """The steps, in a namespace of their own. `base` is the gateway's address."""

    platform: Platform
    base: str
    namespace: str

    def run(self) -> bool:
        """Do all of it; whether the adapter answers in the style it was taught, and the model itself does not."""
        began = time.monotonic()
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", f"--timeout={SECONDS}s", here=False)
        self.kubectl("create", "namespace", self.namespace, here=False)
        self.kubectl("label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted", here=False)
        self.kubectl("apply", "-f", str(EXAMPLE))
        told: set[str] = set()
        eventually(lambda: self.trained(told), "the end of the training", BUSY_SECONDS)
        eventually(lambda: self.served(told), "an engine with the adapter", BUSY_SECONDS)
        answers = {model: self.asked(model) for model in (MODEL, ADAPTER)}
        for model, answer in answers.items():
            print(f"\n> {model}: {QUESTION}\n\n{answer}", flush=True)
        print(flush=True)
        say(f"{self.proof()}; the whole loop took {time.monotonic() - began:.0f} s")
        return answers[ADAPTER].startswith(STYLE) and not answers[MODEL].startswith(STYLE)

    def trained(self, told: set[str]) -> str:
        """Tell each new reason of the job, and its losses; its digest at the end."""
        status = self.status("ftj", JOB)
        conditions = {entry["type"]: entry for entry in status.get("conditions", [])}
        running, progress = conditions.get("Running"), status.get("progress", {})
        if running:
            self.tell(told, f"{JOB} {running['reason']}: {running['message']}")
        if progress.get("trainLoss"):
            steps = f"step {progress['step']} of {progress['totalSteps']}"
            self.tell(told, f"{JOB} {steps}: loss {progress['trainLoss']}, held out {progress.get('evalLoss', '-')}")
        if conditions.get("Failed", {}).get("status") == "True":
            raise RuntimeError(conditions["Failed"]["message"])
        done = conditions.get("Complete", {}).get("status") == "True"
        return str(status["artifact"]["digest"]) if done else ""

    def served(self, told: set[str]) -> str:
        """Tell each new reason of the adapters; `True` when every pod provably serves them."""
        for entry in self.status("llmd", MODEL).get("conditions", []):
            if entry["type"] == "AdaptersReady":
                self.tell(told, f"{MODEL} {entry['reason']}: {entry['message']}")
                return "True" if entry["status"] == "True" else ""
        return ""

    def proof(self) -> str:
        """That the engine that answered both is one that never started again."""
        labels = f"llmops.dev/deployment={MODEL},app.kubernetes.io/component=engine"
        (pod,) = json.loads(self.kubectl("get", "pods", "-l", labels, "-o", "json"))["items"]
        starts = pod["status"]["containerStatuses"][0]["restartCount"]
        serves = pod["metadata"]["annotations"]["llmops.dev/adapters"]
        return f"pod/{pod['metadata']['name']} serves {serves}, restarts {starts}"

    def asked(self, model: str) -> str:
        """The whole answer."""
        body = {
            "model": f"{self.namespace}/{model}",
            "max_tokens": 48,
            "temperature": 0,
            "messages": [{"role": "user", "content": QUESTION}],
        }
        request = urllib.request.Request(
            f"{self.base}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])

    def status(self, kind: str, name: str) -> Json:
        """The object's status."""
        found: Json = json.loads(self.kubectl("get", kind, name, "-o", "json")).get("status", {})
        return found

    def kubectl(self, *arguments: str, here: bool = True) -> str:
        """What kubectl prints, of this namespace unless told otherwise."""
        return self.platform.kubectl(*(("-n", self.namespace) if here else ()), *arguments)

    @staticmethod
    def tell(told: set[str], line: str) -> None:
        """Say it once."""
        if line not in told:
            told.add(line)
            say(line)
