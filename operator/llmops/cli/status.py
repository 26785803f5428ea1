"""`llmops status`: every deployment on a line, or one of them with all it is made of."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from llmops import names
from llmops.cli.cluster import NO, Cluster, Context, Json, Namespace, Refused
from llmops.cli.output import Form, Output, age, console, now, print_json, table
from llmops.shell import resources

KINDS = (
    resources.DEPLOYMENT,
    resources.LEADER_WORKER_SET,
    resources.JOB,
    resources.CRON_JOB,
    resources.PERSISTENT_VOLUME_CLAIM,
    resources.SERVICE,
    resources.POD,
)
NOT_PERMITTED = "not permitted"
Name = Annotated[str | None, typer.Argument(help="An LLMDeployment; without it, all of the namespace.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Keep looking. Off a terminal: a line per change.")]
All = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Every namespace.")]
Interval = Annotated[float, typer.Option(min=0.1, help="Seconds between looks with --watch.")]


def status(
    name: Name = None,
    *,
    watch: Watch = False,
    everywhere: All = False,
    namespace: Namespace = None,
    context: Context = None,
    output: Output = Form.TEXT,
    interval: Interval = 1.0,
) -> None:
    """Show what runs, what is ready, and why not. With a NAME, exit code 1 says that it is not ready."""
    cluster = Cluster(context, namespace)
    try:
        if name is None:
            _all(cluster, None if everywhere else cluster.namespace, output)
        elif watch:
            _follow(cluster, name, interval)
        else:
            _one(cluster, name, output)
    except Refused as refusal:
        raise refusal.exit() from refusal


def conditions(deployment: Json) -> dict[str, Json]:
    """The conditions by type."""
    return {each["type"]: each for each in deployment.get("status", {}).get("conditions", [])}


def children(cluster: Cluster, deployment: Json) -> dict[str, list[Json] | str]:
    """What was made for the deployment, by kind. A kind the reader may not list says so instead of failing the rest."""
    namespace, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
    found: dict[str, list[Json] | str] = {}
    for resource in KINDS:
        try:
            items = cluster.list(resource, namespace, labelSelector=f"{names.LABEL_DEPLOYMENT}={name}")
        except Refused as refusal:
            if refusal.status == 403:
                found[resource.kind] = NOT_PERMITTED
            elif refusal.status != 404:  # the cluster does not serve this kind
                raise
            continue
        if items:
            found[resource.kind] = items
    return found


def _all(cluster: Cluster, namespace: str | None, output: Form) -> None:
    found = cluster.list(resources.LLM_DEPLOYMENT, namespace)
    if output is Form.JSON:
        print_json(found)
        return
    if not found:
        typer.echo(f"No LLMDeployment in {namespace or 'any namespace'}.")
        return
    at = now()
    rows = []
    for each in sorted(found, key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"])):
        ready, state = conditions(each).get("Ready", {}), each.get("status", {})
        sizes = f"{state.get('readyReplicas', 0)}/{state.get('desiredReplicas', '?')}"
        meta = each["metadata"]
        where = [] if namespace else [meta["namespace"]]
        verdict = [ready.get("status", "Unknown"), ready.get("reason", "NotLookedAt")]
        rows.append(
            [*where, meta["name"], *verdict, sizes, each["spec"]["model"]["source"], age(meta["creationTimestamp"], at)]
        )
    table([*([] if namespace else ["namespace"]), "name", "ready", "reason", "replicas", "model", "age"], rows)


def _one(cluster: Cluster, name: str, output: Form) -> None:
    deployment = cluster.get(resources.LLM_DEPLOYMENT, name)
    made = children(cluster, deployment)
    if output is Form.JSON:
        print_json({"deployment": deployment, "children": made})
    else:
        console().print(_tree(deployment, made))
    if conditions(deployment).get("Ready", {}).get("status") != "True":
        raise typer.Exit(NO)


def _follow(cluster: Cluster, name: str, interval: float) -> None:
    from rich.live import Live  # noqa: PLC0415

    screen = console()
    if not screen.is_terminal:
        _follow_in_lines(cluster, name, interval)
        return
    with Live(console=screen, auto_refresh=False) as live:
        while True:
            deployment = cluster.get(resources.LLM_DEPLOYMENT, name)
            live.update(_tree(deployment, children(cluster, deployment)), refresh=True)
            time.sleep(interval)


def _follow_in_lines(cluster: Cluster, name: str, interval: float) -> None:
    """A line for every condition or size that changed, so that a log of it can be read."""
    said: dict[str, str] = {}
    while True:
        deployment = cluster.get(resources.LLM_DEPLOYMENT, name)
        state = deployment.get("status", {})
        lines = {kind: _sentence(each) for kind, each in conditions(deployment).items()}
        lines["Replicas"] = f"Replicas {state.get('readyReplicas', 0)} of {state.get('desiredReplicas', '?')} ready"
        for kind, line in lines.items():
            if said.get(kind) != line:
                typer.echo(f"{now():%H:%M:%SZ} {line}")
        said = lines
        time.sleep(interval)


def _sentence(condition: Json) -> str:
    return f"{condition['type']}={condition['status']} {condition['reason']}: {condition.get('message', '')}".rstrip(
        ": "
    )


def _tree(deployment: Json, made: dict[str, list[Json] | str]) -> Any:
    from rich.markup import escape  # noqa: PLC0415
    from rich.tree import Tree  # noqa: PLC0415

    meta, state = deployment["metadata"], deployment.get("status", {})
    tree = Tree(f"[bold]{meta['namespace']}/{meta['name']}[/]  {escape(deployment['spec']['model']['source'])}")
    if endpoint := state.get("endpoint"):
        tree.add(f"endpoint {escape(endpoint)}")
    facts = tree.add("conditions")
    for each in conditions(deployment).values():
        colour = {"True": "green", "False": "yellow"}.get(each["status"], "dim")
        if each["type"] == "Drifted":
            colour = {"True": "red", "False": "green"}.get(each["status"], "dim")
        facts.add(f"[{colour}]{escape(_sentence(each))}[/]")
    if not conditions(deployment):
        facts.add("none yet: the operator has not looked at it (is it running? `llmops doctor`)")
    at = now()
    for kind, items in made.items():
        if isinstance(items, str):
            tree.add(f"[dim]{kind}: {items}[/]")
            continue
        for item in items:
            since = age(item["metadata"]["creationTimestamp"], at)
            facts_of_it = [f"{kind}/{item['metadata']['name']}", escape(_state(item)), f"[dim]{since}[/]"]
            tree.add("  ".join(filter(None, facts_of_it)))
    return tree


def _state(item: Json) -> str:
    """The one thing a reader wants to know of a child."""
    state, spec = item.get("status", {}), item.get("spec", {})
    match item["kind"]:
        case "Deployment" | "LeaderWorkerSet":
            return f"{state.get('readyReplicas', 0)}/{spec.get('replicas', 1)} ready"
        case "Job":
            told = [each["type"] for each in state.get("conditions", []) if each["status"] == "True"]
            ended = [each for each in told if each not in ("SuccessCriteriaMet", "FailureTarget")]  # on the way there
            return ", ".join(ended or told) or f"{state.get('active', 0)} active"
        case "PersistentVolumeClaim":
            return f"{state.get('phase', 'Pending')} {spec['resources']['requests']['storage']}"
        case "CronJob":
            return f"{spec['schedule']}, last {state.get('lastScheduleTime', 'never')}"
        case "Pod":
            return _pod_state(state)
        case _:
            return ""


def _pod_state(state: Json) -> str:
    for container in [*state.get("initContainerStatuses", []), *state.get("containerStatuses", [])]:
        if waiting := container.get("state", {}).get("waiting"):
            return f"{waiting.get('reason', 'Waiting')} {waiting.get('message', '')}".strip()
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in state.get("conditions", []))
    unplaced = [
        each for each in state.get("conditions", []) if each["type"] == "PodScheduled" and each["status"] == "False"
    ]
    if unplaced:
        return f"{unplaced[0].get('reason', 'Unschedulable')}: {unplaced[0].get('message', '')}"
    return f"{state.get('phase', 'Pending')}{', ready' if ready else ''}"
