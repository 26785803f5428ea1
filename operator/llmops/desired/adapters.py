"""LoRA adapters of a deployment: the room an engine reserves, the volume they lie on, the Job that gives them to a pod.

An engine loads an adapter from a directory it can already see, so there is one volume per deployment, mounted by every
engine from its start, to which adapters are copied. Whatever comes or goes, no engine's template changes with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmops import names
from llmops.api.llm_deployment import LLMDeployment, LoraRoomSpec
from llmops.config import Config
from llmops.desired import metadata, pods, training, weights

Json = dict[str, Any]

COMPONENT = "adapters"
ARTIFACTS = "/artifacts"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM reserves memory for
LIMIT = 32  # adapters of one deployment, all kept in host memory
RETRIES = 4


@dataclass(frozen=True)
class Adapter:
    """An adapter that can be loaded.

    Attributes:
        name: What clients send as `model`.
        digest: Digest of its files.
        job: The FineTuneJob on whose volume it lies; `None` when only the copy made before is left.
        path: Its directory on that volume.
        restored: Whether it lies beside the model, where a restore point has put it.
    """

    name: str
    digest: str
    job: str | None = None
    path: str = ""
    restored: bool = False

    @property
    def origin(self) -> str | None:
        """Where it is copied from, in a pod with the volumes; `None` when only the copy is left."""
        if self.restored:
            return f"{weights.MODEL_DIRECTORY}/adapters/{self.name}"
        return f"{ARTIFACTS}/{self.job}/{self.path}" if self.job else None


@dataclass(frozen=True)
class Engine:
    """One start of one engine: the pod's node and address, and what tells this start from any other."""

    node: str
    address: str
    identity: str


def room(llm: LLMDeployment) -> LoraRoomSpec | None:
    """What the engines reserve for adapters; `None` without any."""
    return llm.spec.engine.lora or (LoraRoomSpec() if llm.spec.adapters else None)


def claim_name(llm: LLMDeployment) -> str:
    """The volume that adapters are copied to."""
    return names.bounded(llm.metadata.name, "adapters")


def objects(llm: LLMDeployment) -> list[Json]:
    """The volume, when there is room for adapters."""
    wanted = room(llm)
    if wanted is None:
        return []
    storage = llm.spec.model.storage
    spec: Json = {"accessModes": [storage.access_mode], "resources": {"requests": {"storage": wanted.size}}}
    if storage.class_name:
        spec["storageClassName"] = storage.class_name
    meta = metadata.child(llm, claim_name(llm), COMPONENT)
    return [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}]


def volume(llm: LLMDeployment, *, read_only: bool) -> tuple[Json, Json]:
    """The volume and its mount: the engine reads it, the Job that copies writes it."""
    source: Json = {"claimName": claim_name(llm)}
    mount: Json = {"name": "adapters", "mountPath": names.ADAPTERS_MOUNT}
    if read_only:
        source["readOnly"] = mount["readOnly"] = True
    return {"name": "adapters", "persistentVolumeClaim": source}, mount


def arguments(wanted: LoraRoomSpec) -> dict[str, str]:
    """The engine's arguments. They say how much room there is and never which adapters, so that those may change."""
    rank = next(rank for rank in RANKS if rank >= wanted.max_rank)
    return {
        "enable-lora": "",
        "max-lora-rank": str(rank),
        "max-loras": str(wanted.max_active),
        "max-cpu-loras": str(LIMIT),
    }


def artifacts(adapters: Sequence[Adapter]) -> tuple[list[Json], list[Json]]:
    """Volumes and mounts of the FineTuneJobs on whose volumes adapters lie, read-only."""
    jobs = sorted({each.job for each in adapters if each.job})
    claims = [{"claimName": training.claim_name(job), "readOnly": True} for job in jobs]
    volumes: list[Json] = [{"name": f"job-{n}", "persistentVolumeClaim": claim} for n, claim in enumerate(claims)]
    mounts: list[Json] = [
        {"name": f"job-{n}", "mountPath": f"{ARTIFACTS}/{job}", "readOnly": True} for n, job in enumerate(jobs)
    ]
    return volumes, mounts


def place(adapter: Adapter) -> str:
    """Its directory in a pod with these volumes: as it was made or restored, or as it was copied, by digest."""
    return adapter.origin or f"{names.ADAPTERS_MOUNT}/{adapter.digest.removeprefix('sha256:')[:16]}"


# The routes that load and unload. Only the Job below reaches them: the gateway forwards no such path, and the
# NetworkPolicy lets nobody else in.
ENVIRONMENT = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}


def job_name(llm: LLMDeployment, engine: Engine, adapters: Sequence[Adapter]) -> str:
    """Named by the start of the engine and by the adapters: another start or another list is another Job."""
    wish = [[each.name, each.digest] for each in adapters]
    return names.bounded(llm.metadata.name, COMPONENT, names.digest([engine.identity, wish]))


def loading(
    llm: LLMDeployment,
    config: Config,
    engine: Engine,
    *,
    served: str,
    tolerations: Sequence[Json],
    adapters: Sequence[Adapter],
) -> Json:
    """The Job that copies, loads and proves adapters on one engine, and unloads what is not wished for any more."""
    pod_security, container_security = pods.security()
    tmp_volume, tmp_mount = pods.scratch("64Mi")
    ours, our_mount = volume(llm, read_only=False)
    volumes, mounts = artifacts(adapters)
    if any(each.restored for each in adapters):
        model = weights.mount(llm)
        volumes, mounts = [*volumes, model.volume], [*mounts, model.mount]
    wish = [{"name": each.name, "digest": each.digest, "from": each.origin} for each in adapters]
    container: Json = {
        "name": COMPONENT,
        "image": config.images.jobs,
        "imagePullPolicy": config.images.pull_policy,
        "command": ["python3", "-m", "llmops_serving.jobs.adapters"],
        "args": [
            f"--engine=http://{_bracketed(engine.address)}:{names.ENGINE_PORT}",
            f"--model={served}",
            f"--adapters={json.dumps(wish, separators=(',', ':'))}",
        ],
        "env": pods.environment(pods.BASE_ENV),
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": container_security,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            tmp_mount,
            our_mount,
            *mounts,
        ],
    }
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": pod_security,
        "containers": [container],
        # A volume that one node may mount is mounted on the engine's.
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": _on(engine.node)}},
        "tolerations": list(tolerations),
        "volumes": [
            tmp_volume,
            ours,
            *volumes,
        ],
    }
    if not spec["tolerations"]:
        del spec["tolerations"]
    if config.images.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in config.images.pull_secrets]
    meta = metadata.child(llm, job_name(llm, engine, adapters), COMPONENT)
    final: Json = {"containerName": COMPONENT, "operator": "In", "values": list(weights.FINAL_EXIT_CODES)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "backoffLimit": RETRIES,
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": final},
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {"metadata": {"labels": dict(meta["labels"])}, "spec": spec},
        },
    }


def _on(node: str) -> Json:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
    return {"nodeSelectorTerms": terms}


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
