"""The whole set of children of FineTuneJobs, one file per kind of use: what a cluster would be given."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.llm_deployment import LLMDeployment
from llmops.config import Config
from llmops.desired import engine, serving, training
from llmops.desired.adapters import Adapter, Engine

HERE = Path(__file__).parent / "training"
UID = "00000000-0000-0000-0000-000000000001"
Json = dict[str, Any]

CONFIG = Config.model_validate(
    {
        "images": {"jobs": "llmops/serving:1", "trainer": "llmops/trainer:1", "pullSecrets": ["registry"]},
        "gateway": {"namespace": "llmops-system"},
        "metricsNamespaces": ["monitoring"],
        "sources": {"huggingFaceEndpoint": "http://hub.example.com", "s3Endpoint": "http://s3.example.com"},
        "profiles": {
            "cpu": {"image": "llmops/engine-cpu:1", "resources": {"requests": {"cpu": "500m", "memory": "3Gi"}}},
            "l4": {
                "image": "vllm/vllm-openai:1",
                "trainerImage": "llmops/trainer-cuda:1",
                "resource": "nvidia.com/gpu",
                "resources": {"requests": {"cpu": "4", "memory": "16Gi"}},
                "nodeSelector": {"gpu": "l4"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "sharedMemory": "8Gi",
            },
        },
    }
)
DEPLOYMENT = LLMDeployment.from_manifest(
    {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "support", "namespace": "team-a", "uid": UID},
        "spec": {
            "model": {"source": "hf://org/model"},
            "adapters": [{"name": "tickets", "source": "finetune://tickets-lora"}],
            "replicas": 1,
        },
    }
)
QUEUE = {"kueue.x-k8s.io/queue-name": "team-a"}
HUB = {"source": "hf://org/model", "revision": "main", "secretRef": {"name": "hf-token"}}

CASES: list[tuple[str, Json, Json]] = [
    (
        "checked-before-anything-else",
        {"baseModel": HUB, "dataset": {"source": "s3://bucket/t.jsonl", "secretRef": {"name": "s3"}}},
        {"train": False},
    ),
    (
        "gpu-with-a-deadline",
        {
            "baseModel": HUB,
            "dataset": {"source": "https://example.com/t.jsonl"},
            "accelerator": {"profile": "l4"},
            "hyperparameters": {"learning_rate": "1e-4", "num_train_epochs": 3},
            "storage": {"size": "100Gi", "className": "fast"},
            "deadlineSeconds": 3600,
            "retries": 1,
        },
        {"check": False},
    ),
    (
        "weights-of-a-deployment-and-a-config-map",
        {"baseModel": {"deployment": "support"}, "dataset": {"source": "configMap://tickets/t.jsonl"}},
        {"deployment": DEPLOYMENT},
    ),
    (
        "volumes-of-the-user",
        {
            "baseModel": {"source": "pvc://models/llama"},
            "dataset": {"source": "pvc://data/2026/t.jsonl", "prepare": {"maskPersonalData": ["Email"]}},
            "evaluation": {"dataset": "configMap://tests/t.jsonl"},
        },
        {},
    ),
    (
        "two-pods-of-two-accelerators-in-a-queue",
        {
            "baseModel": HUB,
            "dataset": {"source": "s3://bucket/t.jsonl"},
            "accelerator": {"profile": "l4", "count": 2},
            "nodes": 2,
            "storage": {"accessMode": "ReadWriteMany"},
        },
        {"check": False},
    ),
    (
        "two-processes-in-one-pod",
        {"baseModel": HUB, "dataset": {"source": "s3://bucket/t.jsonl"}, "accelerator": {"count": 2}},
        {"check": False},
    ),
    (
        "suspended",
        {"baseModel": HUB, "dataset": {"source": "s3://bucket/t.jsonl"}, "suspend": True},
        {},
    ),
]


def job(spec: Json) -> FineTuneJob:
    return FineTuneJob.from_manifest(
        {
            "apiVersion": "llmops.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "tickets-lora", "namespace": "team-a", "uid": UID, "labels": QUEUE},
            "spec": spec,
        }
    )


@pytest.mark.parametrize(("name", "spec", "seen"), CASES, ids=[case[0] for case in CASES])
def test_children(name: str, spec: Json, seen: Json, golden: Callable[[Path, list[Json]], None]) -> None:
    observed = {"deployment": None, "check": True, "train": True, **seen}
    golden(HERE / f"{name}.yaml", training.objects(job(spec), CONFIG, **observed))


def test_the_engine_that_serves_the_result(golden: Callable[[Path, list[Json]], None]) -> None:
    """Its template has room for adapters and names none; a Job gives them to each start of an engine."""
    children = serving.objects(DEPLOYMENT, CONFIG, replicas=1, weights_ready=True, surge=True)
    adapters = [Adapter("tickets", "sha256:1f0c", "tickets-lora", "artifact/1f0c"), Adapter("kept", "sha256:77aa")]
    start = Engine(node="node-1", address="10.0.0.7", identity="uid/containerd://1")
    kinds = ("Deployment", "PersistentVolumeClaim", "NetworkPolicy")
    served = [child for child in children if child["kind"] in kinds and "weights" not in child["metadata"]["name"]]
    golden(HERE / "served.yaml", [*served, engine.loading(DEPLOYMENT, CONFIG, start, adapters)])


def test_a_trainer_listens_where_the_pod_monitor_looks() -> None:
    """The chart's PodMonitor names a port; Prometheus finds nothing where the container has no port of that name."""
    template = Path(__file__).parents[2] / "helm" / "llmops" / "templates" / "podmonitor.yaml"
    asked = re.search(r'"component" "training" .*"port" "(\w+)"', template.read_text())
    assert asked
    spec = {"baseModel": HUB, "dataset": {"source": "s3://bucket/t.jsonl"}}
    wanted = training.objects(job(spec), CONFIG, deployment=None, check=False, train=True)
    (container,) = next(child for child in wanted if child["kind"] == "Job")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"--metrics-port={ports[asked[1]]}" in container["args"]


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in HERE.glob("*.yaml")} == {case[0] for case in CASES} | {"served"}


def test_every_pod_is_restricted() -> None:
    """What Pod Security's `restricted` asks of a pod, for every template of every case."""
    for path in HERE.glob("*.yaml"):
        for manifest in yaml.safe_load_all(path.read_text()):
            if template := manifest["spec"].get("template"):
                spec = template["spec"]
                assert spec["automountServiceAccountToken"] is False
                assert spec["securityContext"]["runAsNonRoot"]
                assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
                for container in [*spec.get("initContainers", []), *spec["containers"]]:
                    security = container["securityContext"]
                    assert security["capabilities"] == {"drop": ["ALL"]}
                    assert security["allowPrivilegeEscalation"] is False
                    assert security["readOnlyRootFilesystem"] is True
