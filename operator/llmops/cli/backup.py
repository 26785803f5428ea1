"""`llmops backup`: a restore point now, the points there are, and a deployment brought back from one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from llmops import names
from llmops.cli.cluster import NO, CliError, Cluster, Context, Json, Namespace, Refused
from llmops.cli.output import Form, Output, age, console, print_json, table
from llmops.cli.output import now as clock
from llmops.shell import resources

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None)

Deployment = Annotated[str, typer.Argument(help="An LLMDeployment.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show how far it is, until its end.")]
Interval = Annotated[float, typer.Option(min=0.05, help="Seconds between looks with --follow.")]


@app.command()
def now(
    name: Deployment,
    *,
    follow: Follow = False,
    hold: Annotated[bool, typer.Option("--hold", help="Keep it whatever retention says.")] = False,
    interval: Interval = 1.0,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Ask for a restore point. With -f, exit code 1 says that it failed."""
    cluster = Cluster(context, namespace)
    moment = f"{datetime.now(UTC):%Y%m%d%H%M%S%f}"[:-3]  # to the millisecond: two may be asked for in one second
    meta = {"name": names.bounded(name, moment), "namespace": cluster.namespace}
    spec = {"deployment": name} | ({"hold": True} if hold else {})
    try:
        cluster.get(resources.LLM_DEPLOYMENT, name)
        cluster.create(
            resources.MODEL_BACKUP,
            {"apiVersion": names.API_VERSION, "kind": "ModelBackup", "metadata": meta, "spec": spec},
        )
        typer.echo(f"modelbackup/{meta['name']} created")
        if follow:
            labels = f"{names.LABEL_BACKUP}={name},{names.LABEL_COMPONENT}=backup"
            _follow(cluster, lambda: _point(cluster, meta["name"]), labels, "backup", interval)
    except Refused as refusal:
        raise refusal.exit() from refusal


@app.command("list")
def list_points(*, namespace: Namespace = None, context: Context = None, output: Output = Form.TEXT) -> None:
    """Show the restore points of a namespace, newest first."""
    cluster = Cluster(context, namespace)
    try:
        found = cluster.list(resources.MODEL_BACKUP, cluster.namespace)
    except Refused as refusal:
        raise refusal.exit() from refusal
    found.sort(key=lambda each: each["metadata"]["creationTimestamp"], reverse=True)
    if output is Form.JSON:
        print_json(found)
        return
    rows = []
    for each in found:
        status = each.get("status", {})
        size, verified = str(status.get("bytes", "")), age(status.get("verifiedAt"), clock())
        made = age(each["metadata"]["creationTimestamp"], clock())
        rows.append([each["metadata"]["name"], _reason(each), status.get("point", ""), size, verified, made])
    table(["name", "reason", "point", "bytes", "verified", "age"], rows)


@app.command()
def restore(
    name: Deployment,
    *,
    point: Annotated[str, typer.Option(help="NAME[@TIME] of the point. Default: the newest verified of its own.")] = "",
    follow: Follow = False,
    interval: Interval = 1.0,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Let a deployment serve a restore point: its spec.model.source becomes backup://. The same in Git is better."""
    cluster = Cluster(context, namespace)
    try:
        live = cluster.get(resources.LLM_DEPLOYMENT, name)
        backup = live["spec"].get("backup")
        if backup is None:
            raise CliError(f"{name} has no spec.backup, which says where points are", NO)
        source = f"backup://{point or backup.get('name') or name}"
        model = {"source": source, "revision": None, "secretRef": None}
        spec = {"model": model, "backup": _without_pointers(backup), **_adapters(live["spec"], source)}
        cluster.patch(resources.LLM_DEPLOYMENT, name, {"spec": spec})
        typer.echo(f"llmdeployment/{name} serves {source} once every digest is checked; until then what it serves now")
        if follow:
            labels = f"{names.LABEL_DEPLOYMENT}={name},{names.LABEL_COMPONENT}=weights"
            _follow(cluster, lambda: _weights(cluster, name), labels, "fetch", interval)
    except Refused as refusal:
        raise refusal.exit() from refusal


def _adapters(spec: Json, source: str) -> Json:
    """Adapters that came out of a restore point come out of this one; those of FineTuneJobs stay as they are."""
    listed = spec.get("adapters", [])
    if not any(each["source"].startswith("backup://") for each in listed):
        return {}
    return {
        "adapters": [each | {"source": source} if each["source"].startswith("backup://") else each for each in listed]
    }


def _without_pointers(backup: Json) -> Json:
    """Only hf:// models may be kept as pointers, and this one is not any more."""
    return {"weights": "Auto"} if backup.get("weights") == "Pointer" else {}


def _point(cluster: Cluster, name: str) -> tuple[bool | None, str]:
    """Whether the point is there (None: not yet), and the sentence that says so."""
    live = cluster.get(resources.MODEL_BACKUP, name)
    found = _conditions(live)
    if found.get("Failed", {}).get("status") == "True":
        return False, _sentence(found["Failed"])
    if found.get("Complete", {}).get("status") == "True":
        return True, f"{live['status']['point']}: {_sentence(found['Complete'])}"
    return None, _sentence(found.get("Running", {}))


def _weights(cluster: Cluster, name: str) -> tuple[bool | None, str]:
    live = cluster.get(resources.LLM_DEPLOYMENT, name)
    found = _conditions(live).get("WeightsReady", {})
    if found.get("observedGeneration") != live["metadata"]["generation"]:
        return None, ""
    final = _conditions(live).get("Stalled", {}).get("status") == "True"
    return True if found["status"] == "True" else False if final else None, _sentence(found)


def _follow(
    cluster: Cluster, look: Callable[[], tuple[bool | None, str]], labels: str, container: str, interval: float
) -> None:
    """A bar with bytes, total, rate and time left on a terminal; elsewhere a line for each change."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn  # noqa: PLC0415 - slow to import  # noqa: PLC0415

    screen = console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    said = ""
    with Progress(*columns, TimeRemainingColumn(), console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task(container, total=None)
        while True:
            done, sentence = look()
            told = _progress(cluster, labels, container)
            if told:
                bar.update(task, completed=told["bytes"], total=told["total"])
                sentence = sentence if screen.is_terminal or done is not None else _line(told)
            if sentence and sentence != said and (not screen.is_terminal or done is not None):
                typer.echo(f"{clock():%H:%M:%SZ} {sentence}")
            said = sentence
            if done is not None:
                break
            time.sleep(interval)
    if not done:
        raise typer.Exit(NO)


def _progress(cluster: Cluster, labels: str, container: str) -> Json | None:
    """The last progress line of the newest pod; nothing without the right to read logs."""
    try:
        pods = cluster.list(resources.POD, cluster.namespace, labelSelector=labels)
        running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
        if not running:
            return None
        newest = max(running, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))["metadata"]["name"]
        for line in reversed(list(cluster.logs(cluster.namespace, newest, container=container, tail=20))):
            entry: Any = json.loads(line) if line.startswith("{") else {}
            if entry.get("event") == "progress":
                return dict(entry)
    except Refused:
        return None
    return None


def _line(told: Json) -> str:
    rate, left = told.get("bytes_per_second"), told.get("eta_seconds")
    speed = f", {rate / 1e6:.0f} MB/s, {left} s left" if rate is not None and left is not None else ""
    return f"{told['bytes'] / 1e9:.2f} of {(told['total'] or 0) / 1e9:.2f} GB{speed}"


def _conditions(live: Json) -> dict[str, Json]:
    return {entry["type"]: entry for entry in live.get("status", {}).get("conditions", [])}


def _reason(live: Json) -> str:
    found = _conditions(live)
    return str(found.get("Running", {}).get("reason", "NotLookedAt"))


def _sentence(condition: Json) -> str:
    return f"{condition['reason']}: {condition.get('message', '')}".rstrip(": ") if condition else ""
