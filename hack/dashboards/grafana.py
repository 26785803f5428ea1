"""Grafana's JSON of a dashboard, through Grafana's own builders: what its schema does not know cannot be set."""

from __future__ import annotations

import json
from typing import Any

from grafana_foundation_sdk.builders import bargauge, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh

from hack.dashboards.questions import Dashboard, Panel

SOURCE = DataSourceRef(type_val="prometheus", uid="$source")
HEIGHT = 8


def printed(wanted: Dashboard) -> str:
    """The file that Grafana provisions."""
    page = (
        dashboard.Dashboard(wanted.title)
        .uid(wanted.uid)
        .description(wanted.about)
        .tags(["llmops"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    )
    for name, query in wanted.chooses.items():
        page.with_variable(
            dashboard.QueryVariable(name)
            .query(query)
            .datasource(SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(include_all=True)
            .multi(multi=True)
        )
    for heading, panels in wanted.rows.items():
        page.with_row(dashboard.Row(heading))
        for panel in panels:
            page.with_panel(_panel(panel))
    built = json.loads(JSONEncoder().encode(page.build()))
    return json.dumps(_without_nothing(built), sort_keys=True, indent=1) + "\n"


def _without_nothing(node: Any) -> Any:
    """Without the fields that were not set: Grafana's defaults are for absent fields, not for null ones."""
    if isinstance(node, dict):
        return {key: _without_nothing(value) for key, value in node.items() if value is not None}
    return [_without_nothing(item) for item in node] if isinstance(node, list) else node


def _panel(wanted: Panel) -> timeseries.Panel | bargauge.Panel:
    panel = bargauge.Panel() if wanted.now else timeseries.Panel()
    panel.title(wanted.title).description(wanted.about).unit(wanted.unit).datasource(SOURCE)
    panel.span(wanted.span).height(HEIGHT)
    for letter, (legend, expression) in zip("ABCDEFGH", wanted.lines.items(), strict=False):
        query = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(expression).legend_format(legend)
        panel.with_target(query.instant() if wanted.now else query.range())
    return panel
