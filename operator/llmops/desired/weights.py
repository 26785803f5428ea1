"""The volume with a model's files, and the Job that fills and verifies it once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmops import names
from llmops.api import source as sources
from llmops.api.llm_deployment import LLMDeployment
from llmops.config import Config
from llmops.desired import metadata, pods, repository

Json = dict[str, Any]

MODEL_DIRECTORY = f"{names.WEIGHTS_MOUNT}/model"
# The codes of the job for "trying again cannot help" (bad arguments, or the user must act): the Job fails at once.
FINAL_EXIT_CODES = (2, 40)


@dataclass(frozen=True)
class Mount:
    """How an engine pod sees the weights: the volume, its mount, and where the model lies inside."""

    volume: Json
    mount: Json
    model_path: str


@dataclass(frozen=True)
class Made:
    """A whole model that a FineTuneJob has finished: the claim it lies on, its directory there and its digest."""

    claim: str
    path: str
    digest: str


def claim_name(llm: LLMDeployment) -> str:
    """The volume claim of this model at this revision; another model is another claim.

    A volume that many nodes can mount is shared by every deployment of the namespace that wants the same files, so
    its name says the files and not the deployment.
    """
    identity = digest(llm)
    return names.bounded("weights" if _shared(llm) else f"{llm.metadata.name}-weights", identity)


def job_name(llm: LLMDeployment) -> str:
    """The Job that fills the volume, named by the files and not by its template.

    A new image of ours must not fetch or verify everything again.
    """
    return names.bounded("weights" if _shared(llm) else f"{llm.metadata.name}-weights", digest(llm), "fetch")


def mounted_claim(llm: LLMDeployment) -> str | None:
    """The claim that engines mount; `None` when the weights are an image."""
    claim: str | None = mount(llm).volume.get("persistentVolumeClaim", {}).get("claimName")
    return claim


def digest(llm: LLMDeployment) -> str:
    """Identity of the files as the spec asks for them."""
    model, backup = llm.spec.model, llm.spec.backup
    identity: Json = {
        "source": model.source,
        "revision": model.revision,
        "secret": model.secret_ref.name if model.secret_ref else None,
        "storage": [model.storage.class_name, model.storage.access_mode],
    }
    if backup and isinstance(sources.parse(model.source), sources.Backup):
        identity["repository"] = backup.target  # the same point of another repository is another model
    return names.digest(identity)


def mount(llm: LLMDeployment) -> Mount:
    """How this deployment's engines mount the weights: read-only, whatever the source."""
    match sources.parse(llm.spec.model.source):
        case sources.Image(reference=reference):
            volume = {"name": "weights", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}
            return Mount(volume, {"name": "weights", "mountPath": MODEL_DIRECTORY, "readOnly": True}, MODEL_DIRECTORY)
        case sources.Claim(claim=claim, path=path):
            where = f"{names.WEIGHTS_MOUNT}/{path}".rstrip("/")
        case _:
            claim, where = claim_name(llm), MODEL_DIRECTORY
    volume = {"name": "weights", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    return Mount(volume, {"name": "weights", "mountPath": names.WEIGHTS_MOUNT, "readOnly": True}, where)


def objects(llm: LLMDeployment, config: Config, made: Made | None = None) -> list[Json]:
    """The claim and the Job; for a source that Kubernetes itself mounts, less, and for one that is not made yet, too.

    Args:
        llm: The object as the user wrote it.
        config: The operator's configuration.
        made: Of a finetune:// source, what its job has finished.
    """
    match sources.parse(llm.spec.model.source):
        case sources.Image():
            return []  # the kubelet pulls and verifies the image by its digest
        case sources.Claim(claim=claim):
            return [_job(llm, config, claim=claim, read_only=True)]
        case sources.FineTune():
            copying = [_copying(llm, config, made)] if made else []
            return [_claim(llm), *copying]
        case _:
            return [_claim(llm), _job(llm, config, claim=claim_name(llm), read_only=False)]


def _shared(llm: LLMDeployment) -> bool:
    return llm.spec.model.storage.access_mode == "ReadWriteMany"


def _claim(llm: LLMDeployment) -> Json:
    storage = llm.spec.model.storage
    spec: Json = {
        "accessModes": [storage.access_mode],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.class_name:
        spec["storageClassName"] = storage.class_name
    meta = _metadata(llm, claim_name(llm))
    if storage.retain:
        del meta["ownerReferences"]  # outlives the deployment; found again by its name
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def _metadata(llm: LLMDeployment, name: str) -> Json:
    """A shared volume has many owners and no controller: it goes when the last of them does."""
    meta = metadata.child(llm, name, "weights")
    meta["labels"][names.LABEL_WEIGHTS] = digest(llm)
    if _shared(llm):
        del meta["labels"][names.LABEL_DEPLOYMENT], meta["labels"]["app.kubernetes.io/instance"]
        meta["ownerReferences"][0].pop("controller")
    return meta


def _job(llm: LLMDeployment, config: Config, *, claim: str, read_only: bool) -> Json:
    template = _template(llm, config, claim=claim, read_only=read_only)
    meta = _metadata(llm, job_name(llm))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "backoffLimit": 6,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "fetch", "operator": "In", "values": list(FINAL_EXIT_CODES)},
                    },
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {"metadata": {"labels": dict(meta["labels"])}, **template},
        },
    }


def _copying(llm: LLMDeployment, config: Config, made: Made) -> Json:
    """The Job that copies a finished model, so that what is served outlives the job that made it."""
    job = _job(llm, config, claim=claim_name(llm), read_only=False)
    pod = job["spec"]["template"]["spec"]
    volume = {"name": "artifact", "persistentVolumeClaim": {"claimName": made.claim, "readOnly": True}}
    pod["volumes"].append(volume)
    container = pod["containers"][0]
    container["volumeMounts"].append({"name": "artifact", "mountPath": "/artifact", "readOnly": True})
    container["args"] += [f"--origin=/artifact/{made.path}", f"--promised={made.digest}"]
    return job


def _template(llm: LLMDeployment, config: Config, *, claim: str, read_only: bool) -> Json:
    pod_security, container_security = pods.security()
    tmp_volume, tmp_mount = pods.scratch()
    weights_volume: Json = {"name": "weights", "persistentVolumeClaim": {"claimName": claim}}
    weights_mount: Json = {"name": "weights", "mountPath": names.WEIGHTS_MOUNT}
    if read_only:
        weights_volume["persistentVolumeClaim"]["readOnly"] = True
        weights_mount["readOnly"] = True
    backup = llm.spec.backup
    if backup and isinstance(sources.parse(llm.spec.model.source), sources.Backup):
        restore = repository.container("fetch", "restore", backup, config)
        restore["args"] += [llm.spec.model.source.removeprefix("backup://"), MODEL_DIRECTORY]
        restore["volumeMounts"].append(weights_mount)
        pod = repository.pod(config, backup, restore)
        pod["volumes"].append(weights_volume)
        return {"spec": pod}
    container: Json = {
        "name": "fetch",
        "image": config.images.jobs,
        "imagePullPolicy": config.images.pull_policy,
        "command": ["python3", "-m", "llmops_serving.jobs.weights"],
        "args": _arguments(llm, config),
        "env": pods.environment(pods.BASE_ENV),
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": container_security,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [tmp_mount, weights_mount],
    }
    if secret := llm.spec.model.secret_ref:
        container["envFrom"] = [{"secretRef": {"name": secret.name}}]
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": pod_security,
        "containers": [container],
        "volumes": [tmp_volume, weights_volume],
    }
    if config.images.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in config.images.pull_secrets]
    return {"spec": spec}


def _arguments(llm: LLMDeployment, config: Config) -> list[str]:
    model = llm.spec.model
    arguments = [f"--source={model.source}", f"--dest={MODEL_DIRECTORY}"]
    if model.revision:
        arguments.append(f"--revision={model.revision}")
    match sources.parse(model.source):
        case sources.Hub() if config.sources.hugging_face_endpoint:
            arguments.append(f"--endpoint={config.sources.hugging_face_endpoint}")
        case sources.Claim(path=path):
            arguments[1] = f"--dest={names.WEIGHTS_MOUNT}/{path}".rstrip("/")
        case sources.Bucket(store="s3") if config.sources.s3_endpoint:
            arguments.append(f"--endpoint={config.sources.s3_endpoint}")
    if config.sources.allow_private_networks:
        arguments.append("--allow-private")
    return arguments
