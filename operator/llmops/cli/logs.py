"""`llmops logs`: what the engines of a deployment print, and how far a FineTuneJob is."""

from __future__ import annotations

from typing import Annotated

import typer

from llmops import names
from llmops.cli import progress
from llmops.cli.cluster import NOT_FOUND, CliError, Cluster, Context, Json, Namespace, Refused
from llmops.shell import resources

Name = Annotated[str, typer.Argument(help="An LLMDeployment or a FineTuneJob.")]
Tail = Annotated[int, typer.Option(min=0, help="Lines from the end of each pod's log.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Keep reading; of the newest pod when there are several.")]
Component = Annotated[
    str | None, typer.Option(help="Only pods of this component, such as engine, weights or training.")
]


def logs(
    name: Name,
    *,
    follow: Follow = False,
    tail: Tail = 100,
    component: Component = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Print the logs of a deployment's or a job's pods, oldest pod first; followed, a job shows its progress.

    Exit code 1: the job that was followed failed.
    """
    cluster = Cluster(context, namespace)
    try:
        owner = _owner(cluster, name)
        if owner is resources.FINE_TUNE_JOB and follow and not component:
            progress.follow(cluster, name, tail=tail)
            return
        label = names.LABEL_JOB if owner is resources.FINE_TUNE_JOB else names.LABEL_DEPLOYMENT
        selector = f"{label}={name}" + (f",{names.LABEL_COMPONENT}={component}" if component else "")
        pods = cluster.list(resources.POD, cluster.namespace, labelSelector=selector)
        if not pods:
            raise CliError(f"{name} has no pods now: llmops status {name}", NOT_FOUND)
        pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        for pod in pods[-1:] if follow else pods:
            _print(cluster, pod, tail, follow=follow, prefixed=len(pods) > 1 and not follow)
    except Refused as refusal:
        raise refusal.exit() from refusal


def _owner(cluster: Cluster, name: str) -> resources.Resource:
    """Which of the two kinds has an object of the name; a deployment is meant where both have.

    Raises:
        Refused: neither has.
    """
    try:
        cluster.get(resources.LLM_DEPLOYMENT, name)
    except Refused as refusal:
        if refusal.status != 404:
            raise
        try:
            cluster.get(resources.FINE_TUNE_JOB, name)
        except Refused:
            raise refusal from None
        return resources.FINE_TUNE_JOB
    return resources.LLM_DEPLOYMENT


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
