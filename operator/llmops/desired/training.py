"""What a FineTuneJob should have: its volume, the Job that checks the data on a CPU, and the Job that trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmops import names
from llmops.api import source as sources
from llmops.api.conditions import Reason
from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.llm_deployment import LLMDeployment
from llmops.api.problem import NeedsUser
from llmops.config import Config, Profile
from llmops.desired import gang, pods, weights

Json = dict[str, Any]

DATASET, TRAINING = "dataset", "training"
JOB_MOUNT = "/job"
FETCHED_MODEL = f"{JOB_MOUNT}/model"
INTERRUPTED_EXIT_CODE = 43  # the trainer stopped as told and left a checkpoint: no failure, whoever told it
CHECK_RETRIES = 3
# A checkpoint of a large model takes a while to write; the kubelet kills a pod that takes longer than this.
GRACE_SECONDS = 300


@dataclass(frozen=True)
class Base:
    """Where the pods find the base model; without a volume it is fetched onto the job's own."""

    path: str = FETCHED_MODEL
    volume: Json | None = None
    mount: Json | None = None


def claim_name(job: str) -> str:
    """The volume of the FineTuneJob of this name: known without asking, so that engines can mount it."""
    return names.bounded(job, "finetune")


def job_name(job: FineTuneJob, component: str) -> str:
    """Name of the checking or the training Job; its pods' host names add their index to it."""
    return names.bounded(job.metadata.name, component, limit=names.NAME_LIMIT - 3)


def objects(
    job: FineTuneJob, config: Config, *, deployment: LLMDeployment | None, check: bool, train: bool
) -> list[Json]:
    """All children, in the order they are needed. A suspended job has its volume only.

    Args:
        job: The object as the user wrote it.
        config: The operator's configuration.
        deployment: The LLMDeployment of spec.baseModel.deployment, when it is given.
        check: Whether the Job that checks the data should exist.
        train: Whether the Job that trains should exist.

    Raises:
        NeedsUser: the spec asks for what this cluster does not have.
    """
    meeting = gang.service(job, _metadata(job, job_name(job, TRAINING), TRAINING), _selector(job))
    wanted = [_claim(job), _network_policy(job, config), *meeting]
    if job.spec.suspend or not (check or train):
        return wanted
    chosen, base = profile(job, config), _base(job, deployment)
    if check:
        wanted.append(_checking(job, config, chosen, base))
    if train:
        wanted.append(_training(job, config, chosen, base))
    return wanted


def profile(job: FineTuneJob, config: Config) -> Profile:
    """The accelerator profile the spec names.

    Raises:
        NeedsUser: the cluster has no such profile, or nothing that could train on it.
    """
    name = job.spec.accelerator.profile
    if name not in config.profiles:
        known = ", ".join(sorted(config.profiles))
        raise NeedsUser(
            Reason.UNKNOWN_PROFILE,
            f"spec.accelerator.profile '{name}' is not configured in this cluster. Use one of: {known}.",
        )
    chosen = config.profiles[name]
    if _image(chosen, config) is None:
        raise NeedsUser(
            Reason.UNKNOWN_PROFILE,
            f"This cluster has no image that trains on profile '{name}'. An administrator sets profiles.{name}."
            "trainerImage in the chart's values.",
        )
    return chosen


def _image(chosen: Profile, config: Config) -> str | None:
    """The profile's own; the one for CPUs trains where there is no accelerator."""
    return chosen.trainer_image or (config.images.trainer if chosen.resource is None else None)


def _base(job: FineTuneJob, deployment: LLMDeployment | None) -> Base:
    if deployment is not None:
        mount = weights.mount(deployment)
        return Base(mount.model_path, mount.volume, mount.mount)
    where = {"name": "weights", "mountPath": names.WEIGHTS_MOUNT, "readOnly": True}
    match sources.parse(job.spec.base_model.source or ""):
        case sources.Image(reference=reference):
            image = {"name": "weights", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}
            return Base(weights.MODEL_DIRECTORY, image, {**where, "mountPath": weights.MODEL_DIRECTORY})
        case sources.Claim(claim=claim, path=path):
            volume = {"name": "weights", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
            return Base(f"{names.WEIGHTS_MOUNT}/{path}".rstrip("/"), volume, where)
    return Base()


def labels(job: FineTuneJob, component: str) -> dict[str, str]:
    """Labels of a child: ours to watch by, the job's to select by."""
    return {
        **names.MANAGED_BY,
        "app.kubernetes.io/name": "llmops",
        "app.kubernetes.io/instance": names.bounded(job.metadata.name),
        names.LABEL_COMPONENT: component,
        names.LABEL_JOB: job.metadata.name,
    }


def _metadata(job: FineTuneJob, name: str, component: str) -> Json:
    """The child's metadata: Kubernetes deletes it with its owner, whether the operator runs or not."""
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": "FineTuneJob",
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": labels(job, component),
        "ownerReferences": [owner],
    }


def _claim(job: FineTuneJob) -> Json:
    storage = job.spec.storage
    spec: Json = {"accessModes": [storage.access_mode], "resources": {"requests": {"storage": storage.size}}}
    if storage.class_name:
        spec["storageClassName"] = storage.class_name
    meta = _metadata(job, claim_name(job.metadata.name), TRAINING)
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def _network_policy(job: FineTuneJob, config: Config) -> Json:
    """Training talks to nobody but to its own pods: model and rows are on its disk. Metrics are read from outside."""
    chosen = _selector(job)
    scrapers: list[Json] = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        for namespace in config.metrics_namespaces
    ]
    rules = gang.traffic(job, chosen, scrapers)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(job, job_name(job, TRAINING), TRAINING),
        "spec": {"podSelector": {"matchLabels": chosen}, "policyTypes": ["Ingress", "Egress"], **rules},
    }


def _selector(job: FineTuneJob) -> dict[str, str]:
    return {names.LABEL_JOB: job.metadata.name, names.LABEL_COMPONENT: TRAINING}


def _checking(job: FineTuneJob, config: Config, chosen: Profile, base: Base) -> Json:
    """On a CPU, whatever trains later: bad data costs no accelerator."""
    container = _container(DATASET, "llmops_serving.jobs.dataset", job, config, chosen, base)
    container["resources"] = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
    spec = _pod(config, [container], base)
    reach = _data(spec, container, config, job.spec.dataset.source, "data", "--file")
    if test := job.spec.evaluation.dataset:
        reach |= _data(spec, container, config, test, "test", "--test-file")
    container["args"] += sorted(reach)
    if secret := job.spec.dataset.secret_ref:
        container["envFrom"] = [{"secretRef": {"name": secret.name}}]
    if base.volume is None:
        spec["initContainers"] = [_fetching(job, config)]
    return _job(job, DATASET, spec, retries=CHECK_RETRIES, deadline=None)


def _data(  # noqa: PLR0917 - one file, two of its uses
    spec: Json, container: Json, config: Config, source: str, name: str, argument: str
) -> set[str]:
    """Mount the file of a source, or return the arguments that let the job fetch it."""
    mount = f"/{name}"
    match sources.parse(source):
        case sources.Claim(claim=claim, path=path):
            volume: Json = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
            file = path
        case sources.ConfigData(name=config_map, key=key):
            # Optional, so that one that is missing is told by the job instead of holding its pod for ever.
            volume = {"configMap": {"name": config_map, "items": [{"key": key, "path": key}], "optional": True}}
            file = key
        case remote:
            return set(_reach(config, remote))
    spec["volumes"].append({"name": name, **volume})
    container["volumeMounts"].append({"name": name, "mountPath": mount, "readOnly": True})
    container["args"].append(f"{argument}={mount}/{file}")
    return set()


def _fetching(job: FineTuneJob, config: Config) -> Json:
    """The base model onto the job's volume, by the same job that fetches an LLMDeployment's weights."""
    model = job.spec.base_model
    _, security = pods.security()
    arguments = [f"--source={model.source}", f"--dest={FETCHED_MODEL}"]
    if model.revision:
        arguments.append(f"--revision={model.revision}")
    container: Json = {
        "name": "fetch",
        "image": config.images.jobs,
        "imagePullPolicy": config.images.pull_policy,
        "command": ["python3", "-m", "llmops_serving.jobs.weights"],
        "args": [*arguments, *_reach(config, sources.parse(model.source or ""))],
        "env": pods.environment(pods.BASE_ENV),
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": security,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [pods.scratch()[1], {"name": "job", "mountPath": JOB_MOUNT}],
    }
    if model.secret_ref:
        container["envFrom"] = [{"secretRef": {"name": model.secret_ref.name}}]
    return container


def _reach(config: Config, source: sources.Source) -> list[str]:
    """Arguments that say which servers stand in for the public ones, and how far a source may reach."""
    arguments = []
    match source:
        case sources.Hub() if config.sources.hugging_face_endpoint:
            arguments.append(f"--endpoint={config.sources.hugging_face_endpoint}")
        case sources.Bucket(store="s3") if config.sources.s3_endpoint:
            arguments.append(f"--endpoint={config.sources.s3_endpoint}")
    return [*arguments, *(["--allow-private"] if config.sources.allow_private_networks else [])]


def _training(job: FineTuneJob, config: Config, chosen: Profile, base: Base) -> Json:
    container = _container(TRAINING, "llmops_serving.jobs.finetune", job, config, chosen, base)
    container["command"] = gang.command(job, job_name(job, TRAINING), "llmops_serving.jobs.finetune")
    container["args"] += [f"--image={container['image']}", f"--metrics-port={names.TRAINER_METRICS_PORT}"]
    container["ports"] = [{"name": "metrics", "containerPort": names.TRAINER_METRICS_PORT, "protocol": "TCP"}]
    resources: Json = {section: dict(values) for section, values in chosen.resources.items()}
    if chosen.resource:
        for section in ("requests", "limits"):
            resources.setdefault(section, {})[chosen.resource] = str(job.spec.accelerator.count)
    container["resources"] = resources
    container["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - a volume of the pod
    spec = _pod(config, [container], base)
    spec["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": chosen.shared_memory}})
    spec["terminationGracePeriodSeconds"] = GRACE_SECONDS
    optional = {
        "nodeSelector": dict(chosen.node_selector),
        "tolerations": list(chosen.tolerations),
        "runtimeClassName": chosen.runtime_class_name,
    }
    spec |= {name: value for name, value in optional.items() if value}
    wanted = _job(job, TRAINING, spec, retries=job.spec.retries, deadline=job.spec.deadline_seconds)
    gang.indexed(job, wanted)
    gang.queued(job, wanted)
    return wanted


def _container(name: str, module: str, job: FineTuneJob, config: Config, chosen: Profile, base: Base) -> Json:  # noqa: PLR0917 - one call each
    _, security = pods.security()
    spec = job.spec.model_dump_json(by_alias=True, exclude_none=True, exclude={"suspend"})
    return {
        "name": name,
        "image": (config.images.trainer if name == DATASET else None) or _image(chosen, config),
        "imagePullPolicy": config.images.pull_policy,
        "command": ["python3", "-m", module],
        "args": [f"--spec={spec}", f"--job={JOB_MOUNT}", f"--model={base.path}"],
        "env": pods.environment(pods.BASE_ENV),
        "securityContext": security,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            pods.scratch()[1],
            {"name": "job", "mountPath": JOB_MOUNT},
            *([base.mount] if base.mount else []),
        ],
    }


def _pod(config: Config, containers: list[Json], base: Base) -> Json:
    security, _ = pods.security()
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": security,
        "containers": containers,
        "volumes": [
            pods.scratch("10Gi")[0],
            {"name": "job", "persistentVolumeClaim": {"claimName": ""}},
            *([base.volume] if base.volume else []),
        ],
    }
    if config.images.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in config.images.pull_secrets]
    return spec


def _job(job: FineTuneJob, component: str, spec: Json, *, retries: int, deadline: int | None) -> Json:
    meta = _metadata(job, job_name(job, component), component)
    for volume in spec["volumes"]:
        if volume["name"] == "job":
            volume["persistentVolumeClaim"]["claimName"] = claim_name(job.metadata.name)
    rules: list[Json] = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [INTERRUPTED_EXIT_CODE]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": list(weights.FINAL_EXIT_CODES)}},
    ]
    wanted: Json = {
        "backoffLimit": retries,
        "podFailurePolicy": {"rules": rules},
        "template": {"metadata": {"labels": dict(meta["labels"])}, "spec": spec},
    }
    if deadline is not None:
        wanted["activeDeadlineSeconds"] = deadline
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": wanted}
