"""What users do, step by step, and what must then be there: the state that every faulted run is compared with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from hack.waiting import eventually
from llmops import names
from tests.faultproxy.kubelet import PodStatuses

Json = dict[str, Any]
State = dict[str, Any]

OURS = f"/apis/{names.API_VERSION}"
CHILDREN = {
    "Service": "/api/v1/namespaces/{}/services",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
}
BASE = "base"
PATIENCE_SECONDS = 240.0  # what a loaded machine may take; what it took is in the outcome
# What differs between two runs that did the same.
_MOVING = [
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r"m-(dataset|training)-[a-z0-9]{5}\b"), "POD"),
    (re.compile(r"10\.96\.\d+\.\d+"), "ADDRESS"),
]
_DROPPED = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid")


class Hands:
    """A user with the rights of an administrator, in one namespace of an operator that is installed in `home`."""

    def __init__(self, client: httpx.Client, pods: PodStatuses, namespace: str, home: str) -> None:
        self.client, self.pods, self.namespace, self.home = client, pods, namespace, home

    def path(self, plural: str, name: str = "") -> str:
        return f"{OURS}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def create(self, kind: str, plural: str, spec: Json, name: str = "m") -> None:
        meta = {"name": name, "namespace": self.namespace}
        manifest = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": meta, "spec": spec}
        self._checked(self.client.post(self.path(plural), json=manifest))

    def change(self, plural: str, patch: Json, name: str = "m", subresource: str = "") -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        path = self.path(plural, name) + (f"/{subresource}" if subresource else "")
        self._checked(self.client.patch(path, content=json.dumps(patch), headers=headers))

    def delete(self, plural: str, name: str = "m") -> None:
        answer = self.client.delete(self.path(plural, name))
        if answer.status_code != 404:
            self._checked(answer)

    def read(self, plural: str, name: str = "m") -> Json:
        """The object; empty when there is none."""
        answer = self.client.get(self.path(plural, name))
        if answer.status_code == 404:
            return {}
        return self._checked(answer)

    def children(self) -> Iterator[tuple[str, Json]]:
        """Everything of the kinds the operator makes, with its kind, but what it makes for the base of a workflow."""
        return ((kind, item) for kind, item in self.everything() if not item["metadata"]["name"].startswith(f"{BASE}-"))

    def everything(self) -> Iterator[tuple[str, Json]]:
        for kind, path in CHILDREN.items():
            for item in self._checked(self.client.get(path.format(self.namespace))).get("items", []):
                yield kind, item

    @staticmethod
    def _checked(answer: httpx.Response) -> Json:
        answer.raise_for_status()
        found: Json = answer.json()
        return found


@dataclass(frozen=True)
class Step:
    """One thing a user does, and when it is done in a run without faults."""

    name: str
    act: Callable[[Hands], None]
    done: Callable[[Json], bool]


@dataclass(frozen=True)
class Workflow:
    """A user's story about one object named `m`.

    `base` is the spec of an LLMDeployment that has to be there before; it is no part of the story.
    """

    name: str
    kind: str
    plural: str
    spec: Json
    steps: tuple[Step, ...]
    base: Json | None = None

    def prepare(self, hands: Hands) -> bool:
        """Have the base there, or nothing of another workflow's; whether anything had to be done."""
        if bool(self.base) == bool(hands.read(LLMD, BASE)):
            return False
        if self.base:
            hands.create("LLMDeployment", LLMD, self.base, BASE)
            eventually(lambda: _condition(hands.read(LLMD, BASE), "Ready")[0] == "True", "the base", PATIENCE_SECONDS)
        else:
            hands.delete(LLMD, BASE)
            eventually(lambda: not list(hands.everything()), "the base to go", PATIENCE_SECONDS)
        return True

    def again(self, hands: Hands) -> None:
        """Create the object as the first step does."""
        hands.create(self.kind, self.plural, self.spec)

    def state(self, hands: Hands, *, but_only_if: Json | None = None) -> State:
        """All there is, without what differs between two runs that did the same; the object itself has the key "".

        Children are not read unless the object is as `but_only_if` says: one request instead of seven.
        """
        found = {"": hands.read(self.plural)}
        if but_only_if is not None and _still(found[""], hands) != but_only_if:
            return {}
        for kind, child in hands.children():
            found[f"{kind}/{child['metadata']['name']}"] = {**child, "status": None}
        return {key: _still(value, hands) for key, value in found.items()}


def orphans(workflow: Workflow, hands: Hands) -> list[str]:
    """Children that name an owner which does not exist."""
    uid = hands.read(workflow.plural).get("metadata", {}).get("uid")
    return [
        f"{kind}/{child['metadata']['name']}"
        for kind, child in hands.children()
        if any(reference["uid"] != uid for reference in child["metadata"].get("ownerReferences") or [])
    ]


def _still(manifest: Json, hands: Hands) -> Json:
    if not manifest:
        return {}
    meta = {key: value for key, value in manifest["metadata"].items() if key not in _DROPPED}
    annotations = {**meta.get("annotations", {})}
    annotations.pop(names.DIGEST_ANNOTATION, None)  # it covers the namespace's name
    text = json.dumps({**manifest, "metadata": {**meta, "annotations": annotations}}, sort_keys=True)
    for moving, name in _MOVING:
        text = moving.sub(name, text)
    still: Json = json.loads(text.replace(hands.namespace, "NAMESPACE").replace(hands.home, "HOME"))
    return still


def _condition(live: Json, kind: str) -> tuple[str, str]:
    for entry in live.get("status", {}).get("conditions", []):
        if entry["type"] == kind and entry["observedGeneration"] == live["metadata"]["generation"]:
            return entry["status"], entry["reason"]
    return "", ""


def _serves(replicas: int) -> Callable[[Json], bool]:
    def done(live: Json) -> bool:
        ready = _condition(live, "Ready")[0] == "True" and _condition(live, "Progressing")[1] == "UpToDate"
        return ready and live["status"].get("readyReplicas") == replicas

    return done


def _is(kind: str, reason: str) -> Callable[[Json], bool]:
    return lambda live: _condition(live, kind)[1] == reason


def _gone(live: Json) -> bool:
    return not live


LLMD = "llmdeployments"
SERVED: Json = {"model": {"source": "hf://o/one"}, "replicas": 1}
TUNED: Json = {"baseModel": {"source": "hf://o/m"}, "dataset": {"source": "s3://bucket/t.jsonl"}}


def _resume(hands: Hands) -> None:
    hands.pods.finish(hands.namespace)
    hands.change("finetunejobs", {"spec": {"suspend": False}})


SERVE = Workflow(
    "LLMDeployment",
    "LLMDeployment",
    LLMD,
    SERVED,
    (
        Step("create", lambda hands: hands.create("LLMDeployment", LLMD, SERVED), _serves(1)),
        Step("change", lambda hands: hands.change(LLMD, {"spec": {"engine": {"maxModelLen": 2048}}}), _serves(1)),
        Step("scale", lambda hands: hands.change(LLMD, {"spec": {"replicas": 2}}, subresource="scale"), _serves(2)),
        Step(
            "other weights",
            lambda hands: hands.change(LLMD, {"spec": {"model": {"source": "hf://o/two"}}}),
            _serves(2),
        ),
        Step("delete", lambda hands: hands.delete(LLMD), _gone),
    ),
)
TUNE = Workflow(
    "FineTuneJob",
    "FineTuneJob",
    "finetunejobs",
    TUNED,
    (
        Step("create", lambda hands: hands.create("FineTuneJob", "finetunejobs", TUNED), _is("Running", "Training")),
        Step(
            "suspend",
            lambda hands: hands.change("finetunejobs", {"spec": {"suspend": True}}),
            _is("Running", "Suspended"),
        ),
        Step("resume", _resume, _is("Complete", "Completed")),
        Step("delete", lambda hands: hands.delete("finetunejobs"), _gone),
    ),
)
BACK_UP = Workflow(
    "ModelBackup",
    "ModelBackup",
    "modelbackups",
    {"deployment": BASE},
    (
        Step(
            "create",
            lambda hands: hands.create("ModelBackup", "modelbackups", {"deployment": BASE}),
            _is("Complete", "Completed"),
        ),
        Step("delete", lambda hands: hands.delete("modelbackups"), _gone),
    ),
    base={
        "model": {"source": "oci://models/tiny:1"},
        "replicas": 0,
        "backup": {"target": "s3://backups/llm", "secretRef": {"name": "backups"}},
    },
)
WORKFLOWS = (SERVE, TUNE)  # what the sample of `make test` is of
