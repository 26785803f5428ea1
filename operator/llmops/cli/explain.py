"""`llmops explain`: why something is as it is."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops import names
from llmops.cli.cluster import NO, CliError, Cluster, Context, Json, Namespace, Refused
from llmops.cli.output import Form, Output, now, print_json
from llmops.cli.status import conditions
from llmops.shell import resources

if TYPE_CHECKING:
    from llmops.judge.scaling import Limits

app = typer.Typer(no_args_is_help=True, help="Why something is as it is: the inputs, the decision, the reason.")
Name = Annotated[str, typer.Argument(help="An LLMDeployment.")]


@app.callback()
def _group() -> None:
    """Keeps `scaling` a word of its own while it is the only one."""


@app.command()
def scaling(name: Name, *, namespace: Namespace = None, context: Context = None, output: Output = Form.TEXT) -> None:
    """Why a model has the number of replicas it has."""
    from llmops.api.llm_deployment import LLMDeployment  # noqa: PLC0415 - pydantic takes its time
    from llmops.api.problem import NeedsUser  # noqa: PLC0415
    from llmops.judge.scaling import Limits  # noqa: PLC0415

    cluster = Cluster(context, namespace)
    try:
        manifest = cluster.get(resources.LLM_DEPLOYMENT, name)
        workload, pods = _live(cluster, manifest)
        events = _events(cluster, manifest)
    except Refused as refusal:
        raise refusal.exit() from refusal
    try:
        limits = Limits.of(LLMDeployment.from_manifest(manifest).spec)
    except NeedsUser as problem:
        raise CliError(problem.message, NO) from problem
    state, at = manifest.get("status", {}), now()
    facts = {
        "limits": _limits(limits, at),
        "size": {
            "wanted": None if workload is None else workload["spec"].get("replicas", 1),
            "ready": sum(_is_ready(pod) for pod in pods),
            "not ready": sum(not _is_ready(pod) for pod in pods),
        },
        "decision": {
            "replicas": state.get("desiredReplicas"),
            "condition": conditions(manifest).get("ScalingActive"),
        },
        "history": events,
    }
    if output is Form.JSON:
        print_json(facts)
    else:
        _say(name, facts)


def _live(cluster: Cluster, manifest: Json) -> tuple[Json | None, list[Json]]:
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    query = {"labelSelector": f"{names.LABEL_DEPLOYMENT}={name}"}
    owned = [
        each
        for each in cluster.list(resources.DEPLOYMENT, namespace, **query)
        if any(owner["uid"] == manifest["metadata"]["uid"] for owner in each["metadata"].get("ownerReferences", []))
    ]
    workload = owned[0] if owned else None
    if workload is None:
        return None, []
    labels = workload["spec"]["selector"]["matchLabels"]
    return workload, cluster.list(resources.POD, namespace, labelSelector=names.selector(labels))


def _events(cluster: Cluster, manifest: Json) -> list[Json]:
    """The last ten changes of size. Events are an extra: a reader who may not see them still gets the rest."""
    meta = manifest["metadata"]
    try:
        events = cluster.list(resources.EVENT, meta["namespace"], fieldSelector=f"regarding.uid={meta['uid']}")
    except Refused as refusal:
        if refusal.status != 403:
            raise
        return []
    mine = [each for each in events if each.get("action") == "Scale"]
    mine.sort(key=lambda each: str(each.get("eventTime") or each.get("deprecatedLastTimestamp")))
    return [
        {
            "at": each.get("eventTime") or each.get("deprecatedLastTimestamp"),
            "reason": each["reason"],
            "note": each.get("note"),
        }
        for each in mine[-10:]
    ]


def _limits(limits: Limits, at: datetime) -> dict[str, Any]:
    if limits.fixed is not None:
        return {"fixed size": limits.fixed}
    return {
        "least now": limits.floor(at),
        "least": limits.minimum,
        "most": limits.maximum,
        "target concurrency per replica": limits.concurrency,
        "target requests per second per replica": limits.requests_per_second,
        "down after lower demand for": _seconds(limits.stabilization),
        "to zero after": _seconds(limits.idle_after) if limits.minimum == 0 else None,
        "schedules": [f"{each.cron} ({each.time_zone}): {each.min_replicas}" for each in limits.schedules] or None,
    }


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():g} s"


def _say(name: str, facts: dict[str, Any]) -> None:
    decision = facts["decision"]
    condition = decision["condition"] or {}
    size = decision["replicas"]
    typer.echo(f"{name}: {'undecided' if size is None else f'{size} replica' if size == 1 else f'{size} replicas'}")
    typer.echo(
        f"because  {condition.get('reason', 'nobody has looked yet')}: {condition.get('message', '')}".rstrip(": ")
    )
    for title in ("limits", "size"):
        given = [f"{field} {value}" for field, value in facts[title].items() if value is not None]
        typer.echo(f"{title:8} {'; '.join(given)}")
    for event in facts["history"]:
        typer.echo(f"{event['at']}  {event['reason']}: {event['note']}")


def _is_ready(pod: Json) -> bool:
    given = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in given)
