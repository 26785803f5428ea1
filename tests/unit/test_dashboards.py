"""What dashboards ask is what somebody records, and what they print is what Grafana takes."""

from __future__ import annotations

import json
import re

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard
from grafana_foundation_sdk.models.dashboard import Panel

from hack.dashboards.grafana import printed
from hack.dashboards.questions import DASHBOARDS, DRIFT, Dashboard
from tests.golden.test_alerts import GROUPS


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=[each.uid for each in DASHBOARDS])
def test_grafanas_own_model_reads_it_and_loses_nothing(dashboard: Dashboard) -> None:
    plugins.register_default_plugins()
    text = printed(dashboard)
    read = GrafanaDashboard.from_json(json.loads(text))
    assert read.uid == dashboard.uid
    shown = [panel for panel in read.panels or [] if isinstance(panel, Panel)]
    assert [panel.title for panel in shown] == [panel.title for panel in dashboard.panels]
    expressions = [[target.expr for target in panel.targets or []] for panel in shown]
    assert expressions == [list(panel.lines.values()) for panel in dashboard.panels]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=[each.uid for each in DASHBOARDS])
def test_no_panel_hides_another(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(printed(dashboard))["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_what_the_drift_page_shows_is_recorded() -> None:
    recorded = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    asked = [query for panel in DRIFT.panels for query in panel.lines.values()]
    assert set(re.findall(r"llmops:\w+", " ".join(asked))) <= recorded
