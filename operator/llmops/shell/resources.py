"""The Kubernetes kinds we read or write, and where the API serves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmops import names


@dataclass(frozen=True)
class Resource:
    """One kind: what manifests call it and how its URL reads."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of the collection, of one object, or of an object's subresource."""
        root = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        parts = [root]
        if namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


CONFIG_MAP = Resource("v1", "ConfigMap", "configmaps")
CRON_JOB = Resource("batch/v1", "CronJob", "cronjobs")
DEPLOYMENT = Resource("apps/v1", "Deployment", "deployments")
ENDPOINT_SLICE = Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
EVENT = Resource("events.k8s.io/v1", "Event", "events")
JOB = Resource("batch/v1", "Job", "jobs")
LEADER_WORKER_SET = Resource("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets")
LEASE = Resource("coordination.k8s.io/v1", "Lease", "leases")
NETWORK_POLICY = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
NODE = Resource("v1", "Node", "nodes")
PERSISTENT_VOLUME_CLAIM = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
POD = Resource("v1", "Pod", "pods")
POD_DISRUPTION_BUDGET = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
PROMETHEUS_RULE = Resource("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules")
SERVICE = Resource("v1", "Service", "services")

LLM_DEPLOYMENT = Resource(names.API_VERSION, "LLMDeployment", "llmdeployments")
FINE_TUNE_JOB = Resource(names.API_VERSION, "FineTuneJob", "finetunejobs")
MODEL_BACKUP = Resource(names.API_VERSION, "ModelBackup", "modelbackups")

BY_KIND = {value.kind: value for value in list(vars().values()) if isinstance(value, Resource)}


def of(manifest: dict[str, Any]) -> Resource:
    """The resource a manifest belongs to; `KeyError` for a kind we never write."""
    return BY_KIND[manifest["kind"]]
