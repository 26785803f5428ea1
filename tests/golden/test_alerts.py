"""The generated rule groups, whole, as files that people read in reviews. UPDATE_GOLDEN=1 writes them anew."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops.api.drift import Watched
from llmops.desired.alerts import baselines_config_map, prometheus_rule, rules_config_map
from llmops.desired.drift_rules import drift_groups
from llmops.desired.slo_rules import slo_groups
from llmops.judge.drift.baseline import Categories, Histogram
from llmops.judge.drift.threshold import frozen

AT = datetime(2026, 11, 20, tzinfo=UTC)
WATCHED = Watched(namespace="team-a", model="support")
BASELINES = [
    frozen("PromptTokens", [Histogram((118, 451, 1101), (200, 300, 400, 100))] * 10, key="k", signals=2, at=AT),
    frozen("FinishReason", [Categories({"stop": 930.0, "length": 70.0})] * 10, key="k", signals=2, at=AT),
]
METADATA = {
    "name": "support-drift",
    "namespace": "team-a",
    "labels": {"app.kubernetes.io/managed-by": "llmops-operator"},
}
GROUPS = drift_groups(WATCHED, BASELINES, window="1h", runbooks="https://llmops.dev/runbooks")
REFUSALS = frozen("Refusal", [Categories({"no": 930.0, "yes": 70.0})] * 10, key="k", signals=1, at=AT)
TEXT = drift_groups(WATCHED, [REFUSALS], window="1h")
ADAPTER = drift_groups(Watched(namespace="team-a", model="support", adapter="tickets"), BASELINES[:1], window="1d")
MANIFESTS: dict[str, dict[str, Any]] = {
    "prometheus-rule": prometheus_rule(METADATA, GROUPS),
    "config-map": rules_config_map(METADATA, GROUPS),
    "baselines": baselines_config_map(METADATA, BASELINES),
    "slo": prometheus_rule({"name": "llmops-slo", "namespace": "llmops-system"}, slo_groups()),
    "text": prometheus_rule(METADATA, TEXT),
    "one-adapter": prometheus_rule(METADATA, ADAPTER),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_golden(name: str) -> None:
    file = Path(__file__).parent / "alerts" / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(yaml.safe_dump(MANIFESTS[name], sort_keys=False, width=10_000))
    assert yaml.safe_load(file.read_text()) == MANIFESTS[name]


def test_nothing_learned_makes_no_rules() -> None:
    assert drift_groups(WATCHED, [], window="1h") == []
