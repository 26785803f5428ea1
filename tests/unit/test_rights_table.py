"""A right that is added to the chart is added to the table that a real API server's audit log is compared with."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TABLE = yaml.safe_load((ROOT / "tests" / "apiserver" / "rights.yaml").read_text())


@pytest.mark.parametrize("component", TABLE)
def test_the_charts_rules_are_in_the_table(component: str) -> None:
    found = defaultdict(set)
    for rule in yaml.safe_load((ROOT / "helm" / "llmops" / "files" / f"{component}-rules.yaml").read_text()):
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                plural, _, sub = resource.partition("/")
                found["/".join(filter(None, (f"{plural}.{group}".rstrip("."), sub)))] |= set(rule["verbs"])
    assert found == {path: set(verbs) for path, verbs in TABLE[component]["served"].items()}
