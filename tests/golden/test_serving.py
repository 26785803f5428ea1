"""The whole set of children, one file per LLMDeployment: what a cluster would be given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops.api.llm_deployment import LLMDeployment
from llmops.config import Config, Tracing
from llmops.desired import serving
from llmops.desired.weights import Made

HERE = Path(__file__).parent / "serving"
Json = dict[str, Any]

CONFIG = Config.model_validate(
    {
        "images": {"jobs": "llmops/serving:1", "pullSecrets": ["registry"]},
        "gateway": {"namespace": "llmops-system"},
        "metricsNamespaces": ["monitoring"],
        "sources": {"huggingFaceEndpoint": "http://hub.example.com"},
        "profiles": {
            "cpu": {"image": "llmops/engine-cpu:1", "args": {"enforce-eager": ""}, "sharedMemory": "256Mi"},
            "l4": {
                "image": "vllm/vllm-openai:1",
                "resource": "nvidia.com/gpu",
                "resources": {"requests": {"cpu": "4", "memory": "16Gi"}},
                "nodeSelector": {"gpu": "l4"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "runtimeClassName": "nvidia",
                "sharedMemory": "8Gi",
            },
        },
    }
)

CASES: list[tuple[str, Json, Json]] = [
    ("cpu-from-hub", {"model": {"source": "hf://org/model", "revision": "main"}, "replicas": 1}, {}),
    ("weights-not-there-yet", {"model": {"source": "hf://org/model"}, "replicas": 1}, {"weights_ready": False}),
    (
        "gpu-private-quantized",
        {
            "model": {"source": "hf://org/model", "secretRef": {"name": "hf-token"}, "servedName": "chat"},
            "accelerator": {"profile": "l4", "count": 2},
            "engine": {
                "tensorParallel": 2,
                "quantization": "awq",
                "maxModelLen": 8192,
                "args": {"gpu-memory-utilization": "0.9"},
            },
            "pod": {"labels": {"team": "a"}, "nodeSelector": {"zone": "b"}, "terminationGracePeriodSeconds": 60},
            "replicas": 3,
        },
        {"replicas": 3},
    ),
    (
        "a-model-that-was-fine-tuned",
        {"model": {"source": "finetune://tickets-full"}, "replicas": 1},
        {"made": Made("tickets-full-finetune", "artifact/1f0c", "sha256:1f0c"), "weights_ready": False},
    ),
    ("full-cluster-rollout", {"model": {"source": "hf://org/model"}, "replicas": 1}, {"surge": False}),
    (
        "several-nodes",
        {
            "model": {"source": "pvc://models/big"},
            "accelerator": {"profile": "l4", "count": 8},
            "engine": {"tensorParallel": 8, "pipelineParallel": 2},
            "replicas": 1,
        },
        {},
    ),
    ("volume-of-the-user", {"model": {"source": "pvc://models/llama"}, "replicas": 1}, {}),
    ("image-volume", {"model": {"source": "oci://models/llama:1"}, "replicas": 1}, {}),
    (
        "shared-volume",
        {"model": {"source": "s3://bucket/llama", "storage": {"accessMode": "ReadWriteMany"}}, "replicas": 1},
        {},
    ),
]


@pytest.mark.parametrize(("name", "spec", "seen"), CASES, ids=[case[0] for case in CASES])
def test_children(name: str, spec: Json, seen: Json, golden: Callable[[Path, list[Json]], None]) -> None:
    manifest = {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "support", "namespace": "team-a", "uid": "00000000-0000-0000-0000-000000000001"},
        "spec": spec,
    }
    observed = {"replicas": 1, "weights_ready": True, "surge": True, **seen}
    golden(HERE / f"{name}.yaml", serving.objects(LLMDeployment.from_manifest(manifest), CONFIG, **observed))


TRACED = "traces-to-a-collector"


def test_children_that_send_traces(golden: Callable[[Path, list[Json]], None]) -> None:
    """The profile's image can, and the cluster has a receiver."""
    profiles = {**CONFIG.profiles, "cpu": CONFIG.profiles["cpu"].model_copy(update={"traces": True})}
    tracing = Tracing(endpoint="http://collector.monitoring:4318", namespace="monitoring")
    config = CONFIG.model_copy(update={"profiles": profiles, "tracing": tracing})
    manifest = {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "support", "namespace": "team-a", "uid": "00000000-0000-0000-0000-000000000001"},
        "spec": {"model": {"source": "hf://org/model"}, "replicas": 1},
    }
    llm = LLMDeployment.from_manifest(manifest)
    golden(HERE / f"{TRACED}.yaml", serving.objects(llm, config, replicas=1, weights_ready=True, surge=True))


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in HERE.glob("*.yaml")} == {case[0] for case in CASES} | {TRACED}


def test_every_pod_is_restricted() -> None:
    """What Pod Security's `restricted` asks of a pod, for every template of every case."""
    for path in HERE.glob("*.yaml"):
        for manifest in yaml.safe_load_all(path.read_text()):
            for template in _templates(manifest):
                spec = template["spec"]
                assert spec["automountServiceAccountToken"] is False
                assert spec["securityContext"]["runAsNonRoot"]
                assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
                assert all("hostPath" not in volume for volume in spec["volumes"])
                for container in spec["containers"]:
                    security = container["securityContext"]
                    assert security["capabilities"] == {"drop": ["ALL"]}
                    assert security["allowPrivilegeEscalation"] is False
                    assert security["readOnlyRootFilesystem"] is True


def _templates(manifest: Json) -> list[Json]:
    spec = manifest["spec"]
    workers = spec.get("leaderWorkerTemplate", {})
    return [
        found for found in (spec.get("template"), workers.get("leaderTemplate"), workers.get("workerTemplate")) if found
    ]
