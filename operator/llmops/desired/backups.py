"""What makes, proves, rehearses and drops restore points: CronJobs of a deployment, and the Job of a ModelBackup."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from llmops import names
from llmops.api import source as sources
from llmops.api.backup import BackupSpec
from llmops.api.llm_deployment import LLMDeployment
from llmops.api.model_backup import ModelBackup
from llmops.config import Config
from llmops.desired import adapters as loras
from llmops.desired import drift, engine, metadata, repository, weights
from llmops.desired.adapters import Adapter

Json = dict[str, Any]

BACKUP, VERIFY, DRILL, COLLECT = "backup", "verify", "drill", "collect"
SCRATCH_MOUNT = "/scratch"
BASELINES_MOUNT = "/baselines"
SCHEDULED_JOB = "LLMOPS_SCHEDULED_JOB"
CRON_JOB_NAME_LIMIT = 52  # Kubernetes appends the minute to it for the Job's name
# A run that the cluster could not start in time is made up for within this, and skipped after it.
STARTING_DEADLINE_SECONDS = 6 * 3600
HISTORY = 3
RETRIES = 6


@dataclass(frozen=True)
class Points:
    """What the jobs must know of the points there are.

    Attributes:
        any: Whether there is one: without, nothing can be verified, rehearsed or dropped.
        held: Points that stay whatever retention says, as `NAME@TIME`.
        deployed: Points that are served now, likewise.
        verify_every: How often verification runs, from which follows how much a run reads.
    """

    any: bool = False
    held: tuple[str, ...] = ()
    deployed: tuple[str, ...] = ()
    verify_every: timedelta = timedelta(days=7)


def points_name(llm: LLMDeployment) -> str:
    """What the deployment's points are called in the repository."""
    return llm.spec.backup.name if llm.spec.backup and llm.spec.backup.name else llm.metadata.name


def cron_job_name(llm: LLMDeployment, component: str) -> str:
    """Name of a CronJob; its Jobs are `NAME-MINUTES`, the minutes since 1970 at which they were due."""
    return names.bounded(llm.metadata.name, component, limit=CRON_JOB_NAME_LIMIT)


def scheduled_job_name(llm: LLMDeployment, due: datetime) -> str:
    """The Job that the backup schedule makes, or made, for this time."""
    return f"{cron_job_name(llm, BACKUP)}-{int(due.timestamp()) // 60}"


def due(llm: LLMDeployment, job: str) -> datetime | None:
    """When a Job of the backup schedule was due; `None` for any other Job."""
    name, _, minutes = job.rpartition("-")
    return datetime.fromtimestamp(60 * int(minutes), UTC) if name == cron_job_name(llm, BACKUP) else None


def ref(llm: LLMDeployment, taken: datetime) -> str:
    """A point of the deployment as a source names it after `backup://`."""
    return f"{points_name(llm)}@{taken.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def job_name(backup: ModelBackup) -> str:
    """The Job of a ModelBackup that no schedule made."""
    return names.bounded(backup.metadata.name, "point")


@dataclass(frozen=True)
class Held:
    """What goes into a point beside the model and its deployment.

    Attributes:
        adapters: Those that can be loaded.
        baselines: Whether the deployment has learned what its traffic looks like.
    """

    adapters: Sequence[Adapter] = ()
    baselines: bool = False


def objects(llm: LLMDeployment, config: Config, *, points: Points, weights_ready: bool, beside: Held) -> list[Json]:
    """The CronJobs of an LLMDeployment; none without spec.backup."""
    spec = llm.spec.backup
    if spec is None:
        return []
    wanted = []
    if spec.schedule and weights_ready:  # half a download is no point to go back to
        pod = _backing_up(llm, spec, config, beside, name=points_name(llm))
        job_of_pod = {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}
        pod["containers"][0]["env"].append({"name": SCHEDULED_JOB, "valueFrom": job_of_pod})
        pod["containers"][0]["args"].append(f"--scheduled-by=$({SCHEDULED_JOB})")
        wanted.append(_cron_job(llm, spec, BACKUP, spec.schedule, pod))
    if points.any:
        wanted.append(_cron_job(llm, spec, VERIFY, spec.verify.schedule, _verifying(llm, spec, config, points)))
        if spec.drill:
            wanted.append(_cron_job(llm, spec, DRILL, spec.drill.schedule, _rehearsing(llm, spec, config)))
        if spec.schedule:
            wanted.append(_cron_job(llm, spec, COLLECT, spec.schedule, _collecting(llm, spec, config, points)))
    return wanted


def point(backup: ModelBackup, llm: LLMDeployment, spec: BackupSpec, config: Config, beside: Held) -> list[Json]:
    """The Job that makes the point of a ModelBackup, which owns it."""
    pod = _backing_up(llm, spec, config, beside, name=ref(llm, backup.taken))
    owner = {**metadata.owner(llm), "kind": "ModelBackup", "name": backup.metadata.name, "uid": backup.metadata.uid}
    meta = _metadata(llm, job_name(backup), BACKUP) | {"ownerReferences": [owner]}
    return [{"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": _job_spec(meta["labels"], pod)}]


def record(llm: LLMDeployment, due: datetime) -> Json:
    """The ModelBackup of a scheduled point: named by its time, so that it is made once."""
    labels = {**names.MANAGED_BY, names.LABEL_DEPLOYMENT: llm.metadata.name}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "ModelBackup",
        "metadata": {
            "name": names.bounded(llm.metadata.name, f"{due:%Y%m%d%H%M}"),
            "namespace": llm.metadata.namespace,
            "labels": labels,
            "ownerReferences": [metadata.owner(llm)],
        },
        "spec": {"deployment": llm.metadata.name, "point": f"{due:%Y-%m-%dT%H:%M:%SZ}"},
    }


def _backing_up(llm: LLMDeployment, spec: BackupSpec, config: Config, beside: Held, *, name: str) -> Json:
    container = repository.container(BACKUP, "backup", spec, config)
    mount = weights.mount(llm)
    volumes, mounts = _adapter_volumes(llm, beside.adapters)
    learned = [drift.memory_name(llm.metadata.name)] if beside.baselines else []
    volumes += [{"name": "baselines", "configMap": {"name": each, "optional": True}} for each in learned]
    mounts += [{"name": "baselines", "mountPath": BASELINES_MOUNT, "readOnly": True} for _ in learned]
    container["volumeMounts"] += [mount.mount, *mounts]
    container["args"] += [
        f"--name={name}",
        f"--weights={spec.weights}",
        f"--resource={_resource(llm)}",
        *(f"--config-map={each}={BASELINES_MOUNT}" for each in learned),
        *_origin(llm, spec),
        *(
            [f"--lock-mode={spec.object_lock.mode.upper()}", f"--lock-days={spec.object_lock.days}"]
            if spec.object_lock
            else []
        ),
        mount.model_path,
        *(f"adapters/{adapter.name}={loras.place(adapter)}" for adapter in beside.adapters),
    ]
    pod = repository.pod(config, spec, container)
    pod["volumes"] += [mount.volume, *volumes]
    if "persistentVolumeClaim" in mount.volume:
        # A volume that one node mounts is on the node of the engines, when there are any.
        term = {
            "labelSelector": {"matchLabels": metadata.selector(llm, engine.COMPONENT)},
            "topologyKey": "kubernetes.io/hostname",
        }
        preferred = [{"weight": 100, "podAffinityTerm": term}]
        pod["affinity"] = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    return pod


def _adapter_volumes(llm: LLMDeployment, adapters: Sequence[Adapter]) -> tuple[list[Json], list[Json]]:
    """Where adapters lie: on their FineTuneJobs' volumes, or, where such a job is gone, on the deployment's own.

    Those of a restore point are beside the model, which is mounted anyway.
    """
    volumes, mounts = loras.artifacts(adapters)
    if any(adapter.origin is None for adapter in adapters):
        volume, mount = loras.volume(llm, read_only=True)
        volumes, mounts = [*volumes, volume], [*mounts, mount]
    return volumes, mounts


def _origin(llm: LLMDeployment, spec: BackupSpec) -> list[str]:
    """Where the weights came from, and at which revision: what a pointer points to.

    What needs a token may be taken away any day: only who says Pointer gets one.
    """
    private = llm.spec.model.secret_ref is not None and spec.weights == "Auto"
    match sources.parse(llm.spec.model.source):
        case sources.Hub() if llm.status.model.revision and not private:
            return [f"--source={llm.spec.model.source}", f"--revision={llm.status.model.revision}"]
        case sources.FineTune():
            return ["--trained-here"]
    return []


def _resource(llm: LLMDeployment) -> str:
    """The object as its author wrote it, to be applied again."""
    kept: Json = {"name": llm.metadata.name, "namespace": llm.metadata.namespace}
    kept |= {"labels": llm.metadata.labels} if llm.metadata.labels else {}
    spec = llm.spec.model_dump(by_alias=True, exclude_none=True, exclude_unset=True, mode="json")
    value = {"apiVersion": names.API_VERSION, "kind": "LLMDeployment", "metadata": kept, "spec": spec}
    # In an argument, Kubernetes reads $(NAME) as a variable and $$ as a dollar sign.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace("$", "$$")


def _verifying(llm: LLMDeployment, spec: BackupSpec, config: Config, points: Points) -> Json:
    container = repository.container(VERIFY, "verify", spec, config)
    container["args"] += [
        f"--name={points_name(llm)}",
        f"--cover={spec.verify.cover_days}d",
        f"--every={max(1, int(points.verify_every.total_seconds()) // 60)}m",
        "--layouts",
    ]
    return repository.pod(config, spec, container)


def _rehearsing(llm: LLMDeployment, spec: BackupSpec, config: Config) -> Json:
    """Into a volume of the pod's own, as large as the model's, that goes with the pod."""
    container = repository.container(DRILL, "drill", spec, config)
    container["args"] += [f"--name={points_name(llm)}", SCRATCH_MOUNT]
    container["volumeMounts"].append({"name": "scratch", "mountPath": SCRATCH_MOUNT})
    pod = repository.pod(config, spec, container)
    storage = llm.spec.model.storage
    claim: Json = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage.size}}}
    if storage.class_name:
        claim["storageClassName"] = storage.class_name
    pod["volumes"].append({"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}})
    return pod


def _collecting(llm: LLMDeployment, spec: BackupSpec, config: Config, points: Points) -> Json:
    container = repository.container(COLLECT, "gc", spec, config)
    keep = spec.retention.model_dump(by_alias=False) if spec.retention else {}
    container["args"] += [
        f"--name={points_name(llm)}",
        *(f"--keep-{rule.removeprefix('keep_')}={count}" for rule, count in keep.items() if count),
        *(f"--held={ref}" for ref in points.held),
        *(f"--deployed={ref}" for ref in points.deployed),
    ]
    return repository.pod(config, spec, container)


def _metadata(llm: LLMDeployment, name: str, component: str) -> Json:
    meta = metadata.child(llm, name, component)
    meta["labels"][names.LABEL_BACKUP] = llm.metadata.name
    return meta


def _cron_job(llm: LLMDeployment, spec: BackupSpec, component: str, schedule: str, pod: Json) -> Json:
    meta = _metadata(llm, cron_job_name(llm, component), component)
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": meta,
        "spec": {
            "schedule": schedule,
            "timeZone": spec.time_zone,
            "suspend": spec.suspend,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": STARTING_DEADLINE_SECONDS,
            "successfulJobsHistoryLimit": HISTORY,
            "failedJobsHistoryLimit": HISTORY,
            "jobTemplate": {"metadata": {"labels": dict(meta["labels"])}, "spec": _job_spec(meta["labels"], pod)},
        },
    }


def _job_spec(labels: dict[str, str], pod: Json) -> Json:
    return {
        "backoffLimit": RETRIES,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": list(weights.FINAL_EXIT_CODES)}},
            ]
        },
        "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
    }
