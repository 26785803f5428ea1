"""LLMDeployment: a language model that answers OpenAI-compatible requests."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from llmops.api.autoscaling import AutoscalingSpec, ScalingSchedule, ScalingTarget
from llmops.api.backup import BackupSpec
from llmops.api.drift import TEXT_SIGNALS, DriftSpec
from llmops.api.engine_args import EngineArgs
from llmops.api.fields import ImageName, ModelName, ObjectName, ProfileName, SecretRef, sources
from llmops.api.llm_status import AdapterStatus, LLMDeploymentStatus, ModelStatus, WeightsStatus
from llmops.api.meta import KubeObject, SpecModel
from llmops.api.pod import PodSpec, ResourcesSpec, Toleration
from llmops.api.quantity import SIZE, amount
from llmops.api.rules import MapByKey, Matches, Rule, Transition
from llmops.api.source import SCHEMES

__all__ = [
    "AcceleratorSpec",
    "AdapterSpec",
    "AdapterStatus",
    "AutoscalingSpec",
    "BackupSpec",
    "EngineSpec",
    "GatewaySpec",
    "LLMDeployment",
    "LLMDeploymentSpec",
    "LLMDeploymentStatus",
    "ModelSpec",
    "ModelStatus",
    "PodSpec",
    "ResourcesSpec",
    "ScalingSchedule",
    "ScalingTarget",
    "SecretRef",
    "StorageSpec",
    "Toleration",
    "WeightsStatus",
]

MODEL_SCHEMES = ("hf", "s3", "gs", "az", "https", "http", "pvc", "oci", "backup", "finetune")
ADAPTER_SCHEMES = ("finetune", "backup")
_NAME = re.compile("[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_WITH_SECRETS = [scheme for scheme in MODEL_SCHEMES if SCHEMES[scheme].takes_secret]


class StorageSpec(SpecModel):
    """The volume that the model's files are downloaded to. Not used with pvc:// and oci://, which bring their own."""

    size: Annotated[
        str,
        Field(max_length=24),
        Matches(SIZE.strip("^$"), "'{self}' is not the size of a volume: write a number and a unit, as in 40Gi"),
    ] = Field(
        default="50Gi",
        description="Size of the volume: the model's files and a tenth more. May grow, never shrink, because volumes "
        "cannot. Default: 50Gi. Example: 40Gi.",
    )
    class_name: ObjectName | None = Field(
        default=None,
        description="StorageClass of the volume. Another class is another volume and another download. "
        "Default: the cluster's. Example: fast-ssd.",
    )
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = Field(
        default="ReadWriteOnce",
        description="ReadWriteMany lets replicas on several nodes, and deployments of the same model in the namespace, "
        "share one volume; with ReadWriteOnce all replicas run on one node. Default: ReadWriteOnce.",
    )
    retain: bool = Field(
        default=False,
        description="Keep the volume when the deployment is deleted, so that the next one need not download. "
        "Default: false.",
    )


class ModelSpec(SpecModel):
    """Which model, where its files come from and what clients call it."""

    source: Annotated[str, Field(max_length=1024), sources(MODEL_SCHEMES)] = Field(
        description="Where the files come from: hf://ORG/NAME, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, "
        "az://CONTAINER/PREFIX, https://HOST/PATH/, pvc://CLAIM/PATH (a volume claim of this namespace, used as it "
        "is), oci://IMAGE (mounted by the node) or backup://NAME[@POINT] (a restore point in spec.backup.target; "
        "without POINT the newest verified one). Example: hf://meta-llama/Llama-3.1-8B-Instruct."
    )
    revision: Annotated[
        str,
        Field(max_length=255),
        Matches("[A-Za-z0-9][A-Za-z0-9._/-]*", "'{self}' is not a branch, tag or commit: write it like main or v1.0"),
    ] | None = Field(
        default=None,
        description="Branch, tag or commit of an hf:// repository. It is resolved once to a commit, shown in "
        "status.model.revision, and stays there until this field changes. Default: main. Example: v1.0.",
    )  # fmt: skip
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Credentials for the source. The Secret's keys become environment variables of the download: "
        "HF_TOKEN; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; GOOGLE_SERVICE_ACCOUNT_KEY; "
        "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY. Default: none.",
    )
    served_name: ModelName | None = Field(
        default=None,
        description="What clients send as `model`. Default: metadata.name. Example: llama-3.1-8b.",
    )
    storage: StorageSpec = Field(default=StorageSpec(), description="The volume that the files are downloaded to.")
    rules = (
        Rule(
            path=".revision",
            cel="!has(self.revision) || self.source.startsWith('hf://')",
            holds=lambda m: m.revision is None or m.source.startswith("hf://"),
            message="only hf:// sources have revisions, and the source is {self.source}: leave revision out and put "
            "the version into the source",
            cause="FieldValueForbidden",
        ),
    )
    transitions = (
        Transition(
            path=".storage.size",
            # Another source, secret, class or mode is another volume, which may have any size.
            cel="self.source != oldSelf.source || has(self.revision) != has(oldSelf.revision) || "
            "(has(self.revision) && self.revision != oldSelf.revision) || "
            "has(self.secretRef) != has(oldSelf.secretRef) || "
            "(has(self.secretRef) && self.secretRef.name != oldSelf.secretRef.name) || "
            "has(self.storage.className) != has(oldSelf.storage.className) || "
            "(has(self.storage.className) && self.storage.className != oldSelf.storage.className) || "
            "self.storage.accessMode != oldSelf.storage.accessMode || "
            "quantity(self.storage.size).compareTo(quantity(oldSelf.storage.size)) >= 0",
            holds=lambda new, old: _volume(new) != _volume(old) or amount(new.storage.size) >= amount(old.storage.size),
            message="a volume cannot shrink: keep the size, or delete the deployment and create it with a smaller one",
        ),
    )


def _volume(model: ModelSpec) -> tuple[object, ...]:
    """What decides which volume the files are on."""
    storage = model.storage
    return model.source, model.revision, model.secret_ref, storage.class_name, storage.access_mode


class AdapterSpec(SpecModel):
    """A LoRA adapter, served beside the model under a name of its own."""

    name: ModelName = Field(description="What clients send as `model` to use the adapter. Example: tickets.")
    source: Annotated[str, Field(max_length=1024), sources(ADAPTER_SCHEMES)] = Field(
        description="finetune://JOB, the FineTuneJob of this namespace that makes it; the model is served without the "
        "adapter until the job is complete. Or the model's own backup:// source: the adapter of this name comes back "
        "with the model from the restore point. Example: finetune://tickets-lora."
    )


class AcceleratorSpec(SpecModel):
    """What one pod computes on."""

    profile: ProfileName = Field(
        default="cpu",
        description="A profile that the platform team has configured (Helm value `profiles`): it says resource name, "
        "image, nodes and tolerations. `cpu` always exists. Default: cpu. Example: nvidia-l4.",
    )
    count: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Accelerators in one pod. Default: 1. Example: 2."
    )


class LoraRoomSpec(SpecModel):
    """Room for adapters, reserved when an engine starts: within it they come and go without a restart."""

    max_rank: Annotated[int, Field(ge=1, le=512)] = Field(
        default=64, description="Highest rank of an adapter. Memory is reserved for it. Default: 64."
    )
    max_active: Annotated[int, Field(ge=1, le=32)] = Field(
        default=4,
        description="Adapters that one batch may use at once, each with a place in accelerator memory; others wait "
        "in host memory. Default: 4.",
    )
    size: Annotated[
        str,
        Field(max_length=24),
        Matches(SIZE.strip("^$"), "'{self}' is not the size of a volume: write a number and a unit, as in 5Gi"),
    ] = Field(default="5Gi", description="Size of the volume that adapters are copied to. Default: 5Gi. Example: 20Gi.")


class EngineSpec(SpecModel):
    """How vLLM serves the model."""

    image: ImageName | None = Field(
        default=None,
        description="Engine image. Default: the profile's. Example: registry.example.com/vllm-openai:v0.32.0.",
    )
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = Field(
        default="auto", description="Number format of weights and activations. Default: auto, the model's own."
    )
    quantization: Annotated[
        str,
        Field(max_length=63),
        Matches("[a-z0-9][a-z0-9_-]*", "'{self}' is not a quantization method: write vLLM's name, as in awq or fp8"),
    ] | None = Field(
        default=None, description="vLLM's quantization method. Default: the model's own. Example: awq."
    )  # fmt: skip
    max_model_len: Annotated[int, Field(ge=1, le=16_777_216)] | None = Field(
        default=None,
        description="Longest prompt and answer together, in tokens. Less of it needs less memory. "
        "Default: the model's own. Example: 8192.",
    )
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Accelerators that share each layer. Default: 1. Example: 2."
    )
    pipeline_parallel: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Groups of accelerators that share the layers out among them. Default: 1. Example: 2."
    )
    lora: LoraRoomSpec | None = Field(
        default=None,
        description="Room for LoRA adapters. Default: none without spec.adapters, else rank 64 and 4 at once.",
    )
    args: EngineArgs = Field(
        default={},
        description="More arguments of vLLM, without leading dashes; an empty value is a flag. What has a field, and "
        'what the operator sets, is refused. Example: {gpu-memory-utilization: "0.9", enforce-eager: ""}.',
    )


class GatewaySpec(SpecModel):
    """How the gateway treats requests for this model."""

    hold_seconds: Annotated[int, Field(ge=0, le=3600)] = Field(
        default=600,
        description="How long a request waits for the first replica, in seconds; 0 answers 503 at once. Default: 600.",
    )
    max_held: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=100, description="Requests that may wait at the same time; one more is answered 429. Default: 100."
    )
    request_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        default=600, description="How long a replica may take to finish an answer, in seconds. Default: 600."
    )
    prefix_affinity: bool = Field(
        default=True,
        description="Send prompts that begin alike to the replica that has their beginning in its cache, as long as "
        "its load stays near the others'; false: always to the least loaded. Default: true.",
    )
    text_sample: Annotated[
        str,
        Field(max_length=6),
        Matches("0|1|0[.][0-9]{1,4}", "'{self}' is not a share of requests: write a decimal from 0 to 1, as in 0.05"),
    ] = Field(
        default="0",
        description="Share of requests whose answer's text is looked at in the gateway's memory and counted as words "
        "of llmops_gateway_text_total: empty, refusal, repetition, JSON validity, language. No text is stored or sent "
        "anywhere. 0: nobody looks. Default: '0'. Example: 0.05.",
    )


class LLMDeploymentSpec(SpecModel):
    """What should be served, and on what."""

    model: ModelSpec = Field(description="Which model, where its files come from and what clients call it.")
    adapters: Annotated[list[AdapterSpec], MapByKey("name")] = Field(
        default=[],
        max_length=32,
        description="LoRA adapters, loaded into running engines. The first one starts them anew, unless engine.lora "
        "has reserved room before.",
    )
    accelerator: AcceleratorSpec = Field(default=AcceleratorSpec(), description="What one pod computes on.")
    engine: EngineSpec = Field(default=EngineSpec(), description="How vLLM serves the model.")
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        default=None,
        description="Fixed number of replicas; `kubectl scale` and HorizontalPodAutoscalers write it. Exactly one of "
        "replicas and autoscaling is given. Example: 1.",
    )
    autoscaling: AutoscalingSpec | None = Field(
        default=None, description="Let measured load decide the number of replicas. In place of replicas."
    )
    gateway: GatewaySpec = Field(default=GatewaySpec(), description="How the gateway treats requests for this model.")
    drift: DriftSpec | None = Field(
        default=None, description="Watch the traffic for change; needs a Prometheus. Default: not watched."
    )
    backup: BackupSpec | None = Field(
        default=None, description="Where restore points of the model go, and how often one is made. Default: none."
    )
    pod: PodSpec = Field(default=PodSpec(), description="Wishes about the pods, beyond the accelerator profile.")
    rules = (
        Rule(
            path=".replicas",
            cel="has(self.replicas) || has(self.autoscaling)",
            holds=lambda s: s.replicas is not None or s.autoscaling is not None,
            # No default: with one, an object that has autoscaling could not be told from one that says both; and a
            # HorizontalPodAutoscaler takes a scale without replicas for zero and never starts.
            message="say how many: give replicas (1 is a good start) for a fixed size, or autoscaling",
            cause="FieldValueRequired",
        ),
        Rule(
            path=".replicas",
            cel="!has(self.replicas) || !has(self.autoscaling)",
            holds=lambda s: s.replicas is None or s.autoscaling is None,
            message="replicas and autoscaling are both given: remove replicas to let load decide, or autoscaling to "
            "fix the size",
            cause="FieldValueForbidden",
        ),
        Rule(
            path=".gateway.textSample",
            cel="!has(self.drift) || !has(self.drift.signals) || self.gateway.textSample != '0' || "
            f"!self.drift.signals.exists(s, s in [{', '.join(repr(each) for each in sorted(TEXT_SIGNALS))}])",
            holds=lambda s: s.drift is None
            or s.gateway.text_sample != "0"
            or not TEXT_SIGNALS & set(s.drift.signals or ()),
            message="drift.signals names some that look at the text of answers: give gateway.textSample a share, as in "
            "0.05, or leave them out",
        ),
        Rule(
            path=".engine.tensorParallel",
            # A tensor-parallel group talks on every layer, so it stays in one pod; a pipeline may go over several.
            cel="self.engine.tensorParallel * self.engine.pipelineParallel == self.accelerator.count || "
            "self.engine.tensorParallel == self.accelerator.count",
            holds=lambda s: s.accelerator.count
            in (s.engine.tensor_parallel * s.engine.pipeline_parallel, s.engine.tensor_parallel),
            message="tensorParallel {self.engine.tensorParallel} x pipelineParallel {self.engine.pipelineParallel} "
            "does not use the {self.accelerator.count} accelerators of a pod: make the product equal its count, "
            "or tensorParallel alone to spread a replica over pipelineParallel pods",
        ),
        Rule(
            path=".model.secretRef",
            cel=f"!has(self.model.secretRef) || self.model.source.matches('^({'|'.join(_WITH_SECRETS)})://')",
            holds=lambda s: s.model.secret_ref is None or s.model.source.partition("://")[0] in _WITH_SECRETS,
            message="nothing would read the Secret, because {self.model.source} is mounted by Kubernetes itself: leave "
            "secretRef out",
            cause="FieldValueForbidden",
        ),
        Rule(
            path=".backup",
            cel="has(self.backup) || !self.model.source.startsWith('backup://')",
            holds=lambda s: s.backup is not None or not s.model.source.startswith("backup://"),
            message="{self.model.source} is in a repository that is not named: give backup.target and "
            "backup.secretRef, without a schedule if nothing is to be backed up",
            cause="FieldValueRequired",
        ),
        Rule(
            path=".adapters",
            cel="!has(self.adapters) || self.adapters.all(each, !each.source.startsWith('backup://') || "
            "each.source == self.model.source)",
            holds=lambda s: all(
                each.source == s.model.source for each in s.adapters if each.source.startswith("backup://")
            ),
            message="an adapter comes out of a restore point together with its model, and the model's source is "
            "{self.model.source}: give both the same backup:// source",
        ),
        Rule(
            path=".backup.weights",
            cel="!has(self.backup) || self.backup.weights != 'Pointer' || self.model.source.startsWith('hf://')",
            holds=lambda s: s.backup is None or s.backup.weights != "Pointer" or s.model.source.startswith("hf://"),
            message="only hf:// models can be kept as pointers, and the source is {self.model.source}: choose Auto "
            "or Full",
        ),
    )  # fmt: skip


class LLMDeployment(KubeObject):
    """A language model that answers OpenAI-compatible requests: its files, its engines and how many of them."""

    api_version: Literal["llmops.dev/v1alpha1"] = Field(description="Version of the API.")
    kind: Literal["LLMDeployment"] = Field(description="Kind of the object.")
    spec: LLMDeploymentSpec = Field(description="What should be served, and on what. Written by users only.")
    status: LLMDeploymentStatus = Field(
        default=LLMDeploymentStatus(), description="What is so. Written by the operator only."
    )
    rules = (
        Rule(
            path=".metadata.name",
            cel="self.metadata.name.matches('^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$')",
            # A manifest with generateName has no name yet.
            holds=lambda o: not o.metadata.name or _NAME.fullmatch(o.metadata.name) is not None,
            message="'{self.metadata.name}' cannot name the Service of a model: use at most 63 lower case letters, "
            "digits and '-', beginning with a letter",
        ),
        Rule(
            path=".spec.adapters",
            cel="!has(self.spec.adapters) || self.spec.adapters.all(each, each.name != "
            "(has(self.spec.model.servedName) ? self.spec.model.servedName : self.metadata.name))",
            holds=lambda o: all(a.name != (o.spec.model.served_name or o.metadata.name) for a in o.spec.adapters),
            message="an adapter has the name of the model itself, so that nobody could ask for it: give it another",
        ),
    )
