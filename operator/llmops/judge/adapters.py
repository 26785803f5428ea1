"""Which adapters of an LLMDeployment may be loaded, and how many engines have each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.api.conditions import ConditionType, Reason
from llmops.api.fine_tune_job import FineTuneJob, LoraSpec
from llmops.api.llm_deployment import AdapterSpec, AdapterStatus, LLMDeployment
from llmops.api.problem import NeedsUser
from llmops.judge import pods

Json = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What became of one adapter of the spec. Without a digest it is not there yet, and `message` says why."""

    message: str
    digest: str | None = None
    path: str = ""
    rank: int = 0


def found(llm: LLMDeployment, adapter: AdapterSpec, job: FineTuneJob | None) -> Found:
    """The adapter, as far as its FineTuneJob has come.

    Raises:
        NeedsUser: the job makes something that this model cannot load.
    """
    name = adapter.source.partition("://")[2]
    if job is None:
        return Found(f"FineTuneJob {name} does not exist in this namespace.")
    if job.spec.method == "Full":
        raise NeedsUser(
            Reason.INVALID_SPEC,
            f"spec.adapters: FineTuneJob {name} trains every weight and makes no adapter. Leave '{adapter.name}' out.",
        )
    base, model = job.spec.base_model, llm.spec.model
    same = base.deployment == llm.metadata.name or (base.source, base.revision) == (model.source, model.revision)
    if not same:
        raise NeedsUser(
            Reason.INVALID_SPEC,
            f"spec.adapters: FineTuneJob {name} adapts {base.source or f'LLMDeployment {base.deployment}'}, and this "
            f"serves {model.source}. An adapter fits only the model it was trained on.",
        )
    complete = next((c for c in job.status.conditions if c.type == ConditionType.COMPLETE), None)
    if complete is None or complete.status != "True" or not job.status.artifact.uri:
        why = f": {complete.message}" if complete else "."
        return Found(f"FineTuneJob {name} is not complete{why}"[:512])
    path = job.status.artifact.uri.partition("://")[2].partition("/")[2]
    rank = (job.spec.lora or LoraSpec()).r
    return Found("", job.status.artifact.digest, path, rank)


def statuses(llm: LLMDeployment, known: Mapping[str, Found], engines: Sequence[Json]) -> list[AdapterStatus]:
    """One entry per adapter of the spec. A pod has an adapter when it is ready and was started with it."""
    ready = [_arguments(pod) for pod in engines if pods.is_ready(pod)]
    return [
        AdapterStatus(
            name=adapter.name,
            digest=known[adapter.name].digest,
            ready_replicas=sum(
                any(
                    argument.startswith(f"{adapter.name}=") and known[adapter.name].path in argument
                    for argument in each
                )
                for each in ready
            )
            if known[adapter.name].digest
            else 0,
            message=known[adapter.name].message or None,
        )
        for adapter in llm.spec.adapters
    ]


def _arguments(pod: Json) -> list[str]:
    return [str(argument) for container in pod["spec"]["containers"] for argument in container.get("args") or []]
