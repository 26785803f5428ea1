"""`llmops logs`: what the engines of a deployment print."""

from __future__ import annotations

from typing import Annotated

import typer

from llmops import names
from llmops.cli.cluster import NOT_FOUND, CliError, Cluster, Context, Json, Namespace, Refused
from llmops.shell import resources

Name = Annotated[str, typer.Argument(help="An LLMDeployment.")]
Tail = Annotated[int, typer.Option(min=0, help="Lines from the end of each pod's log.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Keep reading; of the newest pod when there are several.")]
Component = Annotated[str | None, typer.Option(help="Only pods of this component, such as engine or weights.")]


def logs(
    name: Name,
    *,
    follow: Follow = False,
    tail: Tail = 100,
    component: Component = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Print the logs of a deployment's pods, oldest pod first."""
    cluster = Cluster(context, namespace)
    selector = f"{names.LABEL_DEPLOYMENT}={name}"
    if component:
        selector += f",{names.LABEL_COMPONENT}={component}"
    try:
        pods = cluster.list(resources.POD, cluster.namespace, labelSelector=selector)
        if not pods:
            cluster.get(resources.LLM_DEPLOYMENT, name)  # not there at all is another answer
            raise CliError(f"{name} has no pods now: llmops status {name}", NOT_FOUND)
        pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        for pod in pods[-1:] if follow else pods:
            _print(cluster, pod, tail, follow=follow, prefixed=len(pods) > 1 and not follow)
    except Refused as refusal:
        raise refusal.exit() from refusal


def _print(cluster: Cluster, pod: Json, tail: int, *, follow: bool, prefixed: bool) -> None:
    meta = pod["metadata"]
    container = pod["spec"]["containers"][0]["name"]
    try:
        for line in cluster.logs(meta["namespace"], meta["name"], container=container, tail=tail, follow=follow):
            typer.echo(f"{meta['name']}: {line}" if prefixed else line)
    except Refused as refusal:
        if refusal.status != 400:
            raise
        typer.echo(f"{meta['name']}: no log yet ({refusal.message})", err=True)
