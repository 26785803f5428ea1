"""Every alert has a section in the runbooks, where its `runbook_url` leads, and every section an alert."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from llmops.api.drift import Watched
from llmops.desired.backup_rules import backup_groups
from llmops.desired.drift_rules import drift_groups
from llmops.desired.slo_rules import slo_groups
from llmops.judge.drift.baseline import Categories
from llmops.judge.drift.threshold import frozen

PAGE = (Path(__file__).parents[2] / "docs" / "runbooks.md").read_text()
SECTIONS = re.findall("^## (.+)$", PAGE, re.MULTILINE)
BASELINE = frozen(
    "FinishReason", [Categories({"stop": 1000.0})], key="k", signals=1, at=datetime(2026, 11, 20, tzinfo=UTC)
)
GROUPS = [
    *slo_groups(runbooks="page"),
    *backup_groups(runbooks="page"),
    *drift_groups(Watched(namespace="a", model="m"), [BASELINE], window="1h", runbooks="page"),
]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]


def test_every_alert_has_a_section() -> None:
    assert {rule["alert"] for rule in ALERTS} == set(SECTIONS)


def test_links_lead_there() -> None:
    assert {rule["annotations"]["runbook_url"] for rule in ALERTS} == {f"page#{name.lower()}" for name in SECTIONS}


def test_every_alert_says_how_bad_it_is() -> None:
    assert {rule["labels"]["severity"] for rule in ALERTS} == {"critical", "warning", "none"}
