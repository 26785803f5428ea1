"""What every pod that opens a weights repository has: target, key, how far it reaches, a pvc:// target's volume."""

from __future__ import annotations

from typing import Any

from llmops.api import source as sources
from llmops.api.backup import BackupSpec
from llmops.config import Config
from llmops.desired import pods

Json = dict[str, Any]

TARGET_MOUNT = "/backup"


def container(name: str, module: str, spec: BackupSpec, config: Config) -> Json:
    """A container that runs one of the repository's jobs; its own arguments and mounts are appended."""
    _, security = pods.security()
    hub = config.sources.hugging_face_endpoint
    return {
        "name": name,
        "image": config.images.jobs,
        "imagePullPolicy": config.images.pull_policy,
        "command": ["python3", "-m", f"llmops_serving.jobs.{module}"],
        "args": [
            f"--target={spec.target}",
            *(["--allow-private"] if config.sources.allow_private_networks else []),
            *([f"--hub-endpoint={hub}"] if hub else []),
        ],
        "env": pods.environment(pods.BASE_ENV),
        "envFrom": [{"secretRef": {"name": spec.secret_ref.name}}],
        # A job holds 300 MB at most, whatever the model's size; the rest is the page cache's.
        "resources": {"requests": {"cpu": "100m", "memory": "384Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": security,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [pods.scratch()[1], *({"name": "target", "mountPath": TARGET_MOUNT} for _ in volumes(spec))],
    }


def volumes(spec: BackupSpec) -> list[Json]:
    """The volume of a pvc:// target; none for an object store."""
    target = sources.parse(spec.target)
    if not isinstance(target, sources.Claim):
        return []
    return [{"name": "target", "persistentVolumeClaim": {"claimName": target.claim}}]


def pod(config: Config, spec: BackupSpec, container: Json) -> Json:
    """A pod of one such container; its other volumes are appended."""
    security, _ = pods.security()
    made: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": security,
        "containers": [container],
        "volumes": [pods.scratch()[0], *volumes(spec)],
    }
    if config.images.pull_secrets:
        made["imagePullSecrets"] = [{"name": name} for name in config.images.pull_secrets]
    return made
