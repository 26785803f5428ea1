"""Poison among good objects: nobody waits for the others."""

from __future__ import annotations

import copy
import json
import time
from functools import partial
from pathlib import Path

import yaml

from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually
from tests.apiserver.operating import ROOT
from tests.faultproxy.lane import Lane, ground
from tests.faultproxy.legs.leader import at
from tests.faultproxy.models import SMALL, Models
from tests.faultproxy.page import Section, table
from tests.faultproxy.workflows import Hands, Json

CRD = ROOT / "crds" / "llmdeployments.llmops.dev.yaml"
SLOWER_PROMISED = 1.2
# Specs that no rule of today would let in, as an older or newer definition may have stored them. Replicas are numbers,
# and not negative, in all of them: a definition with a scale subresource never stores others.
UNPARSEABLE: tuple[Json, ...] = (
    {},
    {"model": "hf://o/m"},
    {"model": {"source": 7}, "replicas": 1},
    {"model": {"source": "gopher://x"}, "replicas": 1},
    {"model": {"source": "hf://o/m"}},
    {"model": {"source": "hf://o/m", "storage": {"size": "much"}}, "replicas": 1},
    {"model": {"source": "hf://o/m"}, "replicas": 1, "autoscaling": {"maxReplicas": 0}},
    {"model": {"source": "hf://o/m"}, "replicas": 1, "engine": {"args": ["a"]}},
    {"model": {"source": "hf://o/m"}, "replicas": 1, "accelerator": {"count": 10**9}},
    {"model": {"source": "hf://o/m"}, "replicas": 1, "adapters": [{"name": "a"}]},
)
# Specs that parse and cannot be acted on.
UNDOABLE: tuple[Json, ...] = (
    {**SMALL, "accelerator": {"profile": "nobody-has-this"}},
    {**SMALL, "accelerator": {"profile": "gpu", "count": 2}, "engine": {"pipelineParallel": 2, "tensorParallel": 2}},
    {**SMALL, "adapters": [{"name": "a", "source": "finetune://nobody"}]},
)


def latencies(models: Models) -> list[float]:
    """Change every object, one after the other, and see how long each takes to be followed."""
    found = []
    for name in models.wanted:
        begun = time.monotonic()
        models.change(name)
        eventually(partial(follows, models, name), f"{name} to follow", 120)
        found.append(time.monotonic() - begun)
    return found


def follows(models: Models, name: str) -> bool:
    return name not in models.lagging()


def told(models: Models, name: str) -> bool:
    """Whether an object has conditions."""
    return bool(models.hands.read("llmdeployments", name).get("status", {}).get("conditions"))


def loosened() -> str:
    """The definition without its rules: what stores objects that no longer parse."""
    crd = yaml.safe_load(CRD.read_text())
    version = crd["spec"]["versions"][0]
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version["schema"]["openAPIV3Schema"] = {"type": "object", "properties": {"spec": anything, "status": anything}}
    return json.dumps(crd)


def poison(plane: ControlPlane, hands: Hands, count: int) -> list[str]:
    """Create `count` objects that cannot be served; their names."""
    specs = (*UNPARSEABLE, *UNDOABLE)
    names = [f"poison-{number}" for number in range(count)]
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=loosened())
    for number, name in enumerate(names):
        spec = copy.deepcopy(specs[number % len(specs)])
        eventually(partial(created, hands, name, spec), f"{name} to be stored", 60)
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    return names


def created(hands: Hands, name: str, spec: Json) -> bool:
    """Store an object; false while the old definition still refuses it."""
    meta = {"name": name, "namespace": hands.namespace}
    manifest = {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": spec}
    answer = hands.client.post(hands.path("llmdeployments"), json=manifest)
    return answer.status_code in (201, 409)


def poisoned(plane: ControlPlane, directory: Path, good: int, bad: int) -> tuple[list[float], list[float], list[str]]:
    """Latencies of good objects without and with poison, and the poison that ended in no condition."""
    with Lane(plane, directory, "poison", ["poison-work"]) as lane:
        models = Models(lane, good)
        models.create()
        models.settled()
        without = latencies(models)
        names = poison(plane, models.hands, bad)
        for name in names:
            eventually(partial(told, models, name), f"{name} to have a status", 120)
        silent = [name for name in names if not told(models, name)]
        with_poison = latencies(models)
        assert lane.exits == []
        return without, with_poison, silent


def run(directory: Path, *, long: bool) -> Section:
    good, bad = (500, 50) if long else (60, 26)
    with ground() as plane:
        without, with_poison, silent = poisoned(plane, directory, good, bad)
    slower = at(with_poison, 0.99) / at(without, 0.99)
    broken = [f"good objects {slower:.2f} times slower"] * (slower > SLOWER_PROMISED)
    broken += [f"{name} ended in no condition" for name in silent]
    rows = [
        ["good objects alone", good, f"{at(without, 0.5):.2f}", f"{at(without, 0.99):.2f}"],
        [f"among {bad} that cannot be served", good, f"{at(with_poison, 0.5):.2f}", f"{at(with_poison, 0.99):.2f}"],
    ]
    text = f"""{table(["", "objects", "change followed after, median s", "p99 s"], rows)}

The poison is of {len(UNPARSEABLE)} kinds that no longer parse and {len(UNDOABLE)} that cannot be acted on; each ended
in a condition."""
    return Section("poison", "Poison among good objects", text, tuple(broken))
