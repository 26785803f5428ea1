"""Everything an LLMDeployment should have, as plain manifests."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from llmops import names
from llmops.api.llm_deployment import LLMDeployment
from llmops.config import Config, Tracing
from llmops.desired import adapters, engine, metadata, weights

Json = dict[str, Any]


def objects(
    llm: LLMDeployment,
    config: Config,
    *,
    replicas: int,
    weights_ready: bool,
    surge: bool,
    made: weights.Made | None = None,
) -> list[Json]:
    """All children, in the order they are needed.

    Args:
        llm: The object as the user wrote it.
        config: The operator's configuration.
        replicas: How many engines should run.
        weights_ready: Whether the files are verified; engines are not started before, so that none waits on an empty
            disk and takes an accelerator meanwhile.
        surge: Whether a rollout may start a new pod before it stops an old one; false on a full cluster.
        made: Of a finetune:// source, what its job has finished.

    Raises:
        NeedsUser: the spec asks for what this cluster does not have.
    """
    wanted = weights.objects(llm, config, made)
    # Invalid wishes are told before gigabytes are fetched for them.
    pod = engine.template(llm, config, metadata.labels(llm, engine.COMPONENT))
    wanted += [*adapters.objects(llm), _service(llm), _network_policy(llm, config), _disruption_budget(llm)]
    if weights_ready:
        wanted.append(_workers(llm, pod, replicas) if nodes(llm) > 1 else _deployment(llm, pod, replicas, surge=surge))
    return wanted


def name(llm: LLMDeployment) -> str:
    """Name of the Deployment, the Service and their companions."""
    return names.bounded(llm.metadata.name, engine.COMPONENT)


def nodes(llm: LLMDeployment) -> int:
    """How many pods make one replica: more than one when the model is spread wider than one pod's accelerators."""
    width = llm.spec.engine.tensor_parallel * llm.spec.engine.pipeline_parallel
    return max(1, -(-width // llm.spec.accelerator.count))


def _deployment(llm: LLMDeployment, pod: Json, replicas: int, *, surge: bool) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata.child(llm, name(llm), engine.COMPONENT),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": metadata.selector(llm, engine.COMPONENT)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}
                if surge
                else {"maxSurge": 0, "maxUnavailable": 1},
            },
            "revisionHistoryLimit": 3,
            # Loading a large model is slow, not stuck; what is stuck is judged from the pods.
            "progressDeadlineSeconds": engine.LOAD_SECONDS + 600,
            "template": pod,
        },
    }


def _workers(llm: LLMDeployment, pod: Json, replicas: int) -> Json:
    """A replica over several nodes: a leader that serves and workers that join it through Ray."""
    worker = {**pod, "spec": {**pod["spec"], "containers": [dict(pod["spec"]["containers"][0])]}}
    container = worker["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "args", "ports"):
        container.pop(probe, None)
    join = "ray start --address=$(LWS_LEADER_ADDRESS):6379 --block"
    container["command"] = ["sh", "-c", join]
    leader = {**pod, "spec": {**pod["spec"], "containers": [dict(pod["spec"]["containers"][0])]}}
    serve = leader["spec"]["containers"][0]
    serve["command"] = ["sh", "-c", 'ray start --head --port=6379 && exec "$@"', "--", *serve["command"]]
    serve["args"] = [*serve["args"], "--distributed-executor-backend=ray"]
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": metadata.child(llm, name(llm), engine.COMPONENT),
        "spec": {
            "replicas": replicas,
            "startupPolicy": "LeaderCreated",
            "leaderWorkerTemplate": {
                "size": nodes(llm),
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": leader,
                "workerTemplate": worker,
            },
        },
    }


def _service(llm: LLMDeployment) -> Json:
    """Headless: the gateway balances over pods itself, by what they are doing."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata.child(llm, name(llm), engine.COMPONENT),
        "spec": {
            "clusterIP": "None",
            "selector": metadata.selector(llm, engine.COMPONENT),
            "ports": [{"name": "http", "port": names.ENGINE_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


_DNS: Json = {"ports": [{"port": 53, "protocol": "UDP"}]}


def _receiver(tracing: Tracing) -> Json:
    """The way to where spans go: with its namespace, to its pods and nobody else."""
    address = urlsplit(tracing.endpoint or "")
    port = address.port or {"http": 80, "https": 443}[address.scheme]
    way: Json = {"ports": [{"port": port, "protocol": "TCP"}]}
    if tracing.namespace:
        way["to"] = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": tracing.namespace}}}]
    return way


def _network_policy(llm: LLMDeployment, config: Config) -> Json:
    """Only the gateway, metrics scrapers and the Job that loads adapters reach an engine, and it reaches nobody.

    The weights are on its disk, and its own API key guards only some of its paths: this is the door. An engine that
    sends traces reaches their receiver, and the names of the cluster.
    """
    gateway = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": config.gateway.namespace}},
        "podSelector": {"matchLabels": dict(config.gateway.labels)},
    }
    scrapers = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        for namespace in config.metrics_namespaces
    ]
    peers: list[Json] = [gateway, *scrapers]
    if adapters.room(llm):
        peers.append({"podSelector": {"matchLabels": metadata.selector(llm, adapters.COMPONENT)}})
    ingress: list[Json] = [{"from": peers, "ports": [{"port": names.ENGINE_PORT, "protocol": "TCP"}]}]
    policy: Json = {
        "podSelector": {"matchLabels": metadata.selector(llm, engine.COMPONENT)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
    }
    if nodes(llm) > 1:
        group = [{"podSelector": {"matchLabels": metadata.selector(llm, engine.COMPONENT)}}]
        ingress.append({"from": group})
        policy["egress"] = [{"to": group}, _DNS]
    if engine.profile(llm, config).traces and config.tracing.endpoint:
        policy["egress"] = [*policy.get("egress", [_DNS]), _receiver(config.tracing)]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata.child(llm, name(llm), engine.COMPONENT),
        "spec": policy,
    }


def _disruption_budget(llm: LLMDeployment) -> Json:
    """One pod at a time may be evicted; a minimum would block every drain of a single replica for ever."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata.child(llm, name(llm), engine.COMPONENT),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": metadata.selector(llm, engine.COMPONENT)}},
    }
