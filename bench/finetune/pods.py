"""Two pods that train one model on the demo's cluster: one is killed, and the losses are those of one process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml

from hack.cluster.progress import say
from hack.demo.finetune import EXAMPLE
from hack.demo.install import Platform

NAMESPACE = "finetune-pods"
DEADLINE_SECONDS = 1800.0
EVERY, STEPS = 5, 40
NAMES = ("alone", "together")
Json = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """The namespace in which it happens."""

    platform: Platform

    def figures(self) -> Json:
        """Train with one process and with two pods, kill the pod that does not lead; the namespace goes afterwards."""
        self.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", here=False)
        self.kubectl("create", "namespace", NAMESPACE, here=False)
        self.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted", here=False)
        try:
            for manifest in (_rows(), _job("alone", nodes=1), _job("together", nodes=2)):
                self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
            return self.compared()
        finally:
            self.kubectl("delete", "namespace", NAMESPACE, "--wait=false", here=False)

    def compared(self) -> Json:
        self.until(lambda: any(event["event"] == "checkpoint" for event in self.told("together")), "a checkpoint")
        (victim,) = self.pods("together", 1)
        self.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        say(f"pod/{victim} is killed")
        ends = {name: self.until(partial(self.end, name), f"the end of {name}") for name in NAMES}
        one, two = (self.curve(name) for name in NAMES)
        apart = max((abs(one[step] - two[step]) / one[step] for step in one.keys() & two.keys()), default=None)
        return {
            "ends": ends,
            "steps": {"alone": len(one), "together": len(two)},
            "began_at_steps": [event["step"] for event in self.told("together") if event["event"] == "training"],
            "interval": EVERY,
            "pods": {str(index): len(self.pods("together", index)) for index in range(2)},
            "losses": {"first": [one[1], two[1]], "last": [one[STEPS], two[STEPS]]},
            "losses_apart_at_most": apart,
            "goal_losses_apart": 0.01,
            "held_out_loss": {name: self.status(name)["evaluation"]["evalLoss"] for name in ends},
        }

    def end(self, name: str) -> str:
        """The reason of the job's end, good or bad; empty before."""
        for entry in self.status(name).get("conditions", []):
            if entry["type"] in {"Complete", "Failed"} and entry["status"] == "True":
                return f"{entry['type']}: {entry['reason']}"
        return ""

    def curve(self, name: str) -> dict[int, float]:
        """Loss by step; steps that were learned twice, as they were at last."""
        return {event["step"]: event["loss"] for event in self.told(name) if "loss" in event}

    def told(self, name: str) -> list[Json]:
        """What the leading process said, over all pods that it was in."""
        lines = [line for pod in self.pods(name, 0) for line in self.kubectl("logs", pod).splitlines()]
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def pods(self, name: str, index: int) -> list[str]:
        """Names of the training pods of this index that have run, oldest first."""
        chosen = f"llmops.dev/finetunejob={name},app.kubernetes.io/component=training"
        found = json.loads(self.kubectl("get", "pods", "-l", chosen, "-o", "json"))["items"]
        key = "batch.kubernetes.io/job-completion-index"
        mine = [pod for pod in found if int(pod["metadata"]["labels"].get(key, "0")) == index]
        mine = [pod for pod in mine if pod["status"]["phase"] != "Pending"]
        return [pod["metadata"]["name"] for pod in sorted(mine, key=lambda pod: pod["metadata"]["creationTimestamp"])]

    def status(self, name: str) -> Json:
        found: Json = json.loads(self.kubectl("get", "ftj", name, "-o", "json")).get("status", {})
        return found

    def kubectl(self, *arguments: str, here: bool = True, stdin: str | None = None) -> str:
        return self.platform.kubectl(*(("-n", NAMESPACE) if here else ()), *arguments, stdin=stdin)

    def until(self, look: Callable[[], Any], what: str) -> Any:
        """What `look` returns as soon as it is true."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            if found := look():
                return found
            if failed := [name for name in NAMES if self.end(name).startswith("Failed")]:
                raise RuntimeError(f"{failed[0]} failed: {json.dumps(self.status(failed[0])['conditions'])}")
            time.sleep(0.2)
        raise TimeoutError(f"not within {DEADLINE_SECONDS:.0f} s: {what}")


def _rows() -> Json:
    """The example's rows."""
    manifests = yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8"))
    return next(dict(manifest) for manifest in manifests if manifest["kind"] == "ConfigMap")


def _job(name: str, *, nodes: int) -> Json:
    """The same rows make a step, whether one process takes them all or two take half of them each."""
    numbers = {"max_steps": STEPS, "learning_rate": "1e-3", "max_length": 128, "logging_steps": 1}
    return {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "baseModel": {"source": "hf://llmops/tiny-llama"},
            "dataset": {"source": "configMap://captain-answers/answers.jsonl", "evalFraction": "0.1"},
            "method": "LoRA",
            "lora": {"dropout": "0"},
            "nodes": nodes,
            "hyperparameters": numbers | {"per_device_train_batch_size": 8 // nodes},
            "checkpoint": {"everySteps": EVERY},
            "evaluation": {"maxRows": 0},
            "storage": {"size": "1Gi", "accessMode": "ReadWriteMany"},
        },
    }
