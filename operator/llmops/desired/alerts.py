"""How rule groups reach Prometheus: as a PrometheusRule where that kind is served, else as a file in a ConfigMap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from llmops import names
from llmops.api.drift import FrozenBaseline

Json = dict[str, Any]

RULES_LABEL = f"{names.GROUP}/prometheus-rules"  # what a Prometheus without the operator's CRDs selects and mounts


def prometheus_rule(metadata: Mapping[str, Any], groups: Sequence[Json]) -> Json:
    """The groups for the Prometheus operator, under this metadata."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": dict(metadata),
        "spec": {"groups": list(groups)},
    }


def rules_config_map(metadata: Mapping[str, Any], groups: Sequence[Json]) -> Json:
    """The groups as one rule file, named so that many ConfigMaps can be mounted into one folder."""
    labels = {**metadata.get("labels", {}), RULES_LABEL: "true"}
    file = f"{metadata['namespace']}.{metadata['name']}.rules.yaml"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "labels": labels},
        "data": {file: rule_file(groups)},
    }


def baselines_config_map(metadata: Mapping[str, Any], baselines: Sequence[FrozenBaseline]) -> Json:
    """Where the operator keeps what it learned: the rules are printed from it, and a restart reads it back."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": dict(metadata),
        "data": {f"{each.signal}.json": each.model_dump_json(by_alias=True, indent=1) for each in baselines},
    }


class _Dumper(yaml.SafeDumper):
    """Prints expressions of several lines as blocks, and never folds one: a rule file is read by people."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def rule_file(groups: Sequence[Json]) -> str:
    """The groups as Prometheus reads them from a file."""
    return yaml.dump({"groups": list(groups)}, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
