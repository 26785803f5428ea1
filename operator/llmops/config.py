"""Every knob of the operator, with its reason. The chart's values.schema.json is generated from these models.

The process reads one YAML file (the chart's ConfigMap); a key that is not listed here stops it, because a knob that
is spelled wrong and silently ignored is found only in an incident.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Json = dict[str, Any]


class Model(BaseModel):
    """An immutable value whose YAML keys are camelCase and which refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Profile(Model):
    """A kind of accelerator, as the platform team names it; users say only the name and how many."""

    resource: str | None = Field(
        default=None, description="Extended resource a pod asks for, such as nvidia.com/gpu; none for CPU."
    )
    image: str = Field(description="Engine image, OpenAI-compatible vLLM.")
    command: tuple[str, ...] = Field(
        default=("python3", "-m", "vllm.entrypoints.openai.api_server"),
        description="How the image starts the engine; arguments are appended. It is started by a script, so the image "
        "needs python3, as every vLLM has.",
    )
    args: dict[str, str] = Field(
        default_factory=dict, description="Engine arguments without dashes; an empty value is a flag."
    )
    env: dict[str, str] = Field(default_factory=dict, description="Environment of the engine.")
    resources: Json = Field(default_factory=dict, description="Kubernetes resources of the engine, per accelerator.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Nodes that carry this accelerator.")
    tolerations: tuple[Json, ...] = Field(default=(), description="Taints of those nodes.")
    runtime_class_name: str | None = Field(default=None, description="RuntimeClass, such as nvidia.")
    shared_memory: str = Field(default="1Gi", description="Size of /dev/shm; tensor parallel needs it.")
    memory: str | None = Field(
        default=None,
        pattern=r"^[0-9]+(Ki|Mi|Gi|Ti)?$",
        description="Memory of one accelerator, such as 24Gi; with it, a FineTuneJob that cannot fit is refused before "
        "it takes one.",
    )
    trainer_image: str | None = Field(
        default=None, description="Image that trains on this accelerator; without one, only CPU profiles train."
    )
    traces: bool = Field(
        default=False,
        description="Whether the image has OpenTelemetry's packages, as vLLM's have since 0.17: where tracing.endpoint "
        "is set, its spans join the gateway's traces. An image without them would not start.",
    )
    price_per_hour: str | None = Field(
        default=None,
        pattern=r"^[0-9]{1,9}([.][0-9]{1,9})?$",
        description="Price of one accelerator for one hour, a decimal in a currency of your choice, the same for all.",
    )


class Sources(Model):
    """Where weights may come from."""

    hugging_face_endpoint: str | None = Field(
        default=None, description="Base URL of a hub mirror; default: the public hub."
    )
    s3_endpoint: str | None = Field(default=None, description="Default endpoint for s3:// sources.")
    allow_private_networks: bool = Field(
        default=False,
        description="Let http(s) sources resolve to private addresses. Off: a CR must not be a way to reach services "
        "its author cannot.",
    )


class Images(Model):
    """Images of our own that the operator starts."""

    jobs: str = Field(description="Runs weights downloads.")
    trainer: str | None = Field(default=None, description="Checks data sets, and trains on CPU profiles.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: tuple[str, ...] = Field(default=(), description="Secrets in the workload's namespace.")


class Gateway(Model):
    """Where the gateway runs: the operator points NetworkPolicies and status.endpoint at it."""

    namespace: str = Field(description="Namespace of the gateway's pods.")
    service: str = Field(default="llmops-gateway", description="Service that clients talk to.")
    labels: dict[str, str] = Field(
        default_factory=lambda: {"app.kubernetes.io/name": "llmops", "app.kubernetes.io/component": "gateway"},
        description="Labels of the gateway's pods.",
    )


class Prometheus(Model):
    """The Prometheus that scrapes the gateway and evaluates the generated rules."""

    url: str | None = Field(
        default=None,
        pattern="^https?://",
        description="What comes before /api/v1; none: nothing is asked, and spec.drift says so.",
    )
    credentials: str | None = Field(
        default=None,
        description="Folder with `token`, sent as a bearer token, and `ca.crt`, whom to trust; either may be missing.",
    )


class Tracing(Model):
    """Where spans go."""

    endpoint: str | None = Field(
        default=None, pattern=r"^https?://[^/?#]+$", description="Base URL of an OTLP/HTTP receiver; none: no traces."
    )
    namespace: str | None = Field(
        default=None, description="Namespace of its pods, the only ones that engines may reach; none: it is elsewhere."
    )


class Config(Model):
    """The whole configuration of one operator."""

    images: Images
    gateway: Gateway
    profiles: dict[str, Profile] = Field(description="Accelerator profiles by the name users write.")
    sources: Sources = Sources()
    namespaces: tuple[str, ...] = Field(default=(), description="Namespaces to watch; empty: the whole cluster.")
    metrics_namespaces: tuple[str, ...] = Field(
        default=(), description="Namespaces whose pods may scrape engines, besides the gateway's."
    )
    prometheus: Prometheus = Prometheus()
    tracing: Tracing = Tracing()
    runbooks: str = Field(
        default="docs/runbooks.md",
        description="URL at which docs/runbooks.md is read; every alert links to the section of its name.",
    )
    resync_seconds: Annotated[int, Field(ge=30)] = Field(
        default=600, description="Look at every object at least this often: a safety net, not the mechanism."
    )
    workers: Annotated[int, Field(ge=1, le=256)] = Field(default=32, description="Objects reconciled at once.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
