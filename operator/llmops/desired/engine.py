"""One engine pod: how vLLM is started, what it may write to, how its health is asked and how it is drained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmops import names
from llmops.api.conditions import Reason
from llmops.api.llm_deployment import LLMDeployment
from llmops.api.problem import NeedsUser
from llmops.config import Config, Profile
from llmops.desired import adapters, lifetime, pods, weights
from llmops.desired.adapters import Adapter, Engine

Json = dict[str, Any]

COMPONENT = names.ENGINE_COMPONENT
CONTAINER = "engine"
LOAD_SECONDS = 3600  # a start-up probe longer than any model takes to load, so that nobody kills a slow disk's pod
DEFAULT_GRACE_SECONDS = 600  # as long as a request may take


def profile(llm: LLMDeployment, config: Config) -> Profile:
    """The accelerator profile the spec names.

    Raises:
        NeedsUser: the cluster has no such profile.
    """
    name = llm.spec.accelerator.profile
    if name not in config.profiles:
        known = ", ".join(sorted(config.profiles))
        raise NeedsUser(
            Reason.UNKNOWN_PROFILE,
            f"spec.accelerator.profile '{name}' is not configured in this cluster. Use one of: {known}.",
        )
    return config.profiles[name]


def served_name(llm: LLMDeployment) -> str:
    """The model name clients send."""
    return llm.spec.model.served_name or llm.metadata.name


def grace_seconds(llm: LLMDeployment) -> int:
    """How long a pod that was told to go may finish what it is answering."""
    asked = llm.spec.pod.termination_grace_period_seconds
    return DEFAULT_GRACE_SECONDS if asked is None else asked


def template(llm: LLMDeployment, config: Config, labels: dict[str, str]) -> Json:
    """The pod template of one engine on one node. It says how much room adapters have, and never which there are."""
    chosen, wishes, mount = profile(llm, config), llm.spec.pod, weights.mount(llm)
    pod_security, _ = pods.security()
    tmp_volume, tmp_mount = pods.scratch("10Gi")
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": chosen.shared_memory}}
    shm_mount = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 - a volume of the pod
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security,
        "terminationGracePeriodSeconds": grace_seconds(llm),
        "containers": [_container(llm, config, chosen, [tmp_mount, shm_mount, mount.mount], mount.model_path)],
        "volumes": [tmp_volume, shm, mount.volume],
    }
    optional = {
        "nodeSelector": {**chosen.node_selector, **wishes.node_selector},
        "tolerations": _tolerations(llm, chosen),
        "affinity": wishes.affinity,
        "runtimeClassName": chosen.runtime_class_name,
        "priorityClassName": wishes.priority_class_name,
        "imagePullSecrets": [{"name": name} for name in config.images.pull_secrets],
    }
    spec |= {name: value for name, value in optional.items() if value}
    if adapters.room(llm):
        volume, volume_mount = adapters.volume(llm, read_only=True)
        spec["volumes"].append(volume)
        spec["containers"][0]["volumeMounts"].append(volume_mount)
    meta: Json = {"labels": {**wishes.labels, **labels}}
    if wishes.annotations:
        meta["annotations"] = dict(wishes.annotations)
    return {"metadata": meta, "spec": spec}


def loading(llm: LLMDeployment, config: Config, start: Engine, loras: Sequence[Adapter]) -> Json:
    """The Job that gives one start of an engine these adapters and no others."""
    tolerations = _tolerations(llm, profile(llm, config))
    return adapters.loading(llm, config, start, served=served_name(llm), tolerations=tolerations, adapters=loras)


def _tolerations(llm: LLMDeployment, chosen: Profile) -> list[Json]:
    asked = [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in llm.spec.pod.tolerations]
    return [*chosen.tolerations, *asked]


def _container(llm: LLMDeployment, config: Config, chosen: Profile, mounts: list[Json], model_path: str) -> Json:
    _, container_security = pods.security()
    room = adapters.room(llm)
    health: Json = {"httpGet": {"path": "/health", "port": "http"}}
    return {
        "name": CONTAINER,
        "image": llm.spec.engine.image or chosen.image,
        "imagePullPolicy": config.images.pull_policy,
        "command": lifetime.launched(chosen.command),
        "args": arguments(llm, chosen, model_path, traces=_traces_to(config, chosen)),
        "env": pods.environment(
            {
                **pods.BASE_ENV,
                **_OFFLINE,
                **(adapters.ENVIRONMENT if room else {}),
                **(_traced(llm) if _traces_to(config, chosen) else {}),
                **chosen.env,
            }
        ),
        "ports": [{"name": "http", "containerPort": names.ENGINE_PORT}],
        "resources": resources(llm, chosen),
        "securityContext": container_security,
        # Without a message of its own, the last lines a crashed engine printed are the best reason there is.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "startupProbe": {**health, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": LOAD_SECONDS},
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": lifetime.drain()}}},
        "volumeMounts": mounts,
    }


_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def _traces_to(config: Config, chosen: Profile) -> str | None:
    """Where the engine's spans go; None if it sends none."""
    return config.tracing.endpoint if chosen.traces else None


def _traced(llm: LLMDeployment) -> dict[str, str]:
    """The gateway decides what is recorded: without its word, vLLM would record every request and its own start."""
    return {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_RESOURCE_ATTRIBUTES": f"k8s.namespace.name={llm.metadata.namespace}",
        "OTEL_SERVICE_NAME": llm.metadata.name,
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
    }


def arguments(llm: LLMDeployment, chosen: Profile, model_path: str, *, traces: str | None = None) -> list[str]:
    """The engine's arguments: the profile's, then the spec's, then what no one may change."""
    engine = llm.spec.engine
    spoken: dict[str, str] = {
        **chosen.args,
        "dtype": engine.dtype,
        **({"quantization": engine.quantization} if engine.quantization else {}),
        **({"max-model-len": str(engine.max_model_len)} if engine.max_model_len else {}),
        **({"tensor-parallel-size": str(engine.tensor_parallel)} if engine.tensor_parallel > 1 else {}),
        **({"pipeline-parallel-size": str(engine.pipeline_parallel)} if engine.pipeline_parallel > 1 else {}),
        **engine.args,
        **(adapters.arguments(room) if (room := adapters.room(llm)) else {}),
        **({"enable-prompt-tokens-details": ""} if llm.spec.drift and "PrefixHit" in llm.spec.drift.watches else {}),
        **({"otlp-traces-endpoint": f"{traces}/v1/traces"} if traces else {}),
        "model": model_path,
        "served-model-name": served_name(llm),
        "host": "0.0.0.0",
        "port": str(names.ENGINE_PORT),
    }
    return [f"--{name}={value}" if value != "" else f"--{name}" for name, value in sorted(spoken.items())]


def resources(llm: LLMDeployment, chosen: Profile) -> Json:
    """What a pod asks for: the profile's, overridden by the spec's, plus the accelerators, which nobody overrides."""
    asked = llm.spec.pod.resources
    wanted: Json = {
        section: {**chosen.resources.get(section, {}), **values}
        for section, values in (("requests", asked.requests), ("limits", asked.limits))
    }
    if chosen.resource:
        count = str(llm.spec.accelerator.count)
        for section in wanted.values():
            section[chosen.resource] = count
    return {section: values for section, values in wanted.items() if values}
