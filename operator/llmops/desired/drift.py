"""What a deployment has for drift: a ConfigMap with everything that was learned, and the rules printed from it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from llmops import names
from llmops.api.drift import DriftSpec, FrozenBaseline, Watched
from llmops.api.drift_state import Memories, Remembered
from llmops.api.llm_deployment import LLMDeployment
from llmops.desired import alerts, metadata
from llmops.desired.drift_rules import drift_groups

Json = dict[str, Any]

COMPONENT = "drift"
MEMORY_FILE = "memory.json"


def memory_name(deployment: str) -> str:
    """Name of the ConfigMap that holds what was learned and remembered."""
    return names.bounded(deployment, COMPONENT)


def rules_name(deployment: str) -> str:
    """Name of the PrometheusRule, or of the ConfigMap in its place."""
    return names.bounded(deployment, COMPONENT, "rules")


def watched(llm: LLMDeployment) -> Watched:
    """The deployment as its series call it."""
    return Watched(namespace=llm.metadata.namespace, model=llm.metadata.name)


def objects(
    llm: LLMDeployment,
    spec: DriftSpec,
    remembered: Remembered,
    bars: tuple[FrozenBaseline, ...],
    *,
    runbooks: str | None,
    prometheus_rules: bool,
) -> list[Json]:
    """What should exist.

    Args:
        llm: The deployment.
        spec: Its spec.drift.
        remembered: What to store.
        bars: The baselines that are compared with, each with the bar that applies now.
        runbooks: URL of the page of runbooks.
        prometheus_rules: Whether the cluster has PrometheusRules.
    """
    if not remembered.memories.signals:
        return []
    stored = alerts.baselines_config_map(
        metadata.child(llm, memory_name(llm.metadata.name), COMPONENT), remembered.baselines
    )
    stored["data"][MEMORY_FILE] = remembered.memories.model_dump_json(by_alias=True, exclude_none=True, indent=1)
    groups = drift_groups(
        watched(llm), bars, window=spec.window, persistence_seconds=spec.persistence_seconds, runbooks=runbooks
    )
    if not groups:
        return [stored]
    build = alerts.prometheus_rule if prometheus_rules else alerts.rules_config_map
    return [stored, build(metadata.child(llm, rules_name(llm.metadata.name), COMPONENT), groups)]


def suspended_copy(job: Json, deployment: str, began: datetime) -> Json:
    """A FineTuneJob like this one that waits for somebody to start it; the same drift gives the same name."""
    meta = job["metadata"]
    return {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "metadata": {
            "name": names.bounded(meta["name"], COMPONENT, f"{began:%Y%m%d%H%M%S}"),
            "namespace": meta["namespace"],
            "annotations": {f"{names.GROUP}/drift-of": deployment},
        },
        "spec": {**job["spec"], "suspend": True},
    }


def remembered(stored: Json | None) -> Remembered:
    """What the ConfigMap holds. What somebody has spoilt by hand counts as never learned."""
    data: dict[str, str] = dict((stored or {}).get("data") or {})
    try:
        memories = Memories.model_validate_json(data.pop(MEMORY_FILE, "{}"))
    except ValidationError:
        return Remembered()
    return Remembered(baselines=tuple(found for text in data.values() if (found := _baseline(text))), memories=memories)


def _baseline(text: str) -> FrozenBaseline | None:
    try:
        return FrozenBaseline.model_validate_json(text)
    except ValidationError:
        return None
