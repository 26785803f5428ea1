"""`llmops cost`: what serving costs now, and with a Prometheus, what it has cost, for whom, and what was idle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import typer

from llmops.cli.cluster import NO, UNREACHABLE, CliError, Cluster, Context, Json, Namespace, Refused
from llmops.cli.output import Form, Output, print_json, table
from llmops.desired import queries
from llmops.shell.resources import LLM_DEPLOYMENT

All = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Every namespace.")]
Prometheus = Annotated[
    str | None,
    typer.Option(envvar="LLMOPS_PROMETHEUS", help="Base URL of a Prometheus that scrapes operator and gateway."),
]
Since = Annotated[str, typer.Option(help="With --prometheus: how far back, as a PromQL duration such as 24h or 7d.")]
Tenants = Annotated[bool, typer.Option("--tenants", help="With --prometheus: a line per model and tenant.")]

HISTORY = {
    "cost": queries.cost,
    "saved": queries.saved,
    "idleShare": queries.idle_share,
    "tokens": queries.tokens,
    "perMillionTokens": queries.cost_per_million_tokens,
}
Row = dict[str, str | float | None]


def cost(
    *,
    everywhere: All = False,
    prometheus: Prometheus = None,
    since: Since = "24h",
    tenants: Tenants = False,
    namespace: Namespace = None,
    context: Context = None,
    output: Output = Form.TEXT,
) -> None:
    """Show what models cost: now, by their status; and over a time, by what Prometheus recorded."""
    if prometheus is None and tenants:
        raise CliError("tenants are told apart in the gateway's metrics only: say --prometheus URL", 2)
    if not re.fullmatch(r"[0-9]+[smhdwy]", since):
        raise CliError(f"'{since}' is not a PromQL duration such as 24h", 2)
    cluster = Cluster(context, namespace)
    where = None if everywhere else cluster.namespace
    if prometheus and tenants:
        rows = _by_tenant(History(prometheus, since), where)
    else:
        rows = _by_model(cluster, where, History(prometheus, since) if prometheus else None)
    if output is Form.JSON:
        print_json(rows)
        return
    if not rows:
        typer.echo("No LLMDeployment.")
        return
    table([_heading(column) for column in rows[0]], [[_cell(value) for value in row.values()] for row in rows])
    if all(row.get("perHour") is None for row in rows) and not tenants:
        typer.echo("No profile has a price: set profiles.NAME.pricePerHour in the chart's values.")


@dataclass(frozen=True)
class History:
    """What a Prometheus recorded over a time."""

    url: str
    since: str

    def of(self, query: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The value of each series, by these labels."""
        import httpx  # noqa: PLC0415 - slow to import, and `--help` needs none of it

        try:
            answer = httpx.get(f"{self.url.rstrip('/')}/api/v1/query", params={"query": query}, timeout=30)
            body: Json = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise CliError(f"no answer from the Prometheus at {self.url}: {error}", UNREACHABLE) from error
        if body.get("status") != "success":
            raise CliError(f"the Prometheus at {self.url} refused: {body.get('error')}", NO)
        return {
            tuple(series["metric"].get(label, "") for label in labels): float(series["value"][1])
            for series in body["data"]["result"]
        }


def _by_model(cluster: Cluster, where: str | None, history: History | None) -> list[Row]:
    try:
        live = cluster.list(LLM_DEPLOYMENT, where)
    except Refused as refusal:
        raise refusal.exit() from refusal
    past = (
        {name: history.of(query(history.since), "namespace", "model") for name, query in HISTORY.items()}
        if history
        else {}
    )
    rows: list[Row] = []
    for deployment in live:
        meta, status = deployment["metadata"], deployment.get("status", {})
        key = (meta["namespace"], meta["name"])
        rows.append(
            {
                "namespace": meta["namespace"],
                "name": meta["name"],
                "profile": deployment["spec"].get("accelerator", {}).get("profile", "cpu"),
                "replicas": status.get("replicas", 0),
                "perHour": float(status["costPerHour"]) if "costPerHour" in status else None,
                **{name: found.get(key) for name, found in past.items()},
            }
        )
    return rows


def _by_tenant(history: History, where: str | None) -> list[Row]:
    labels = ("namespace", "model", "tenant")
    tokens = history.of(queries.tokens(history.since, ", ".join(labels)), *labels)
    costs = history.of(queries.tenant_cost(history.since), *labels)
    return [
        {**dict(zip(labels, key, strict=True)), "tokens": tokens[key], "cost": costs.get(key)}
        for key in sorted(tokens)
        if where in (None, key[0])
    ]


def _heading(column: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column)


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
