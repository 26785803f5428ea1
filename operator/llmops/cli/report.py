"""`llmops report`: what somebody who is asked for help needs to see, and nothing that is secret."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llmops.cli import doctor, gateway
from llmops.cli.cluster import NO, CliError, Cluster, Context, Json, Namespace, Refused
from llmops.cli.output import now
from llmops.judge.redaction import MASK, redacted
from llmops.shell import resources

LOG_LINES = 2000
# Never Secrets, not even their names' list: whoever sends this on cannot have looked through all of it.
KINDS = (
    resources.LLM_DEPLOYMENT,
    resources.FINE_TUNE_JOB,
    resources.MODEL_BACKUP,
    resources.DEPLOYMENT,
    resources.LEADER_WORKER_SET,
    resources.JOB,
    resources.CRON_JOB,
    resources.PERSISTENT_VOLUME_CLAIM,
    resources.SERVICE,
    resources.POD,
    resources.EVENT,
)
_SECRET_NAME = re.compile(r"(?i)(token|secret|password|passwd|credential|api_?key|private_?key|access_?key)")

Path_ = Annotated[Path | None, typer.Option("--to", help="Where to. Default: llmops-report-TIME.tar.gz here.")]
Install = Annotated[
    str | None, typer.Option("--install-namespace", help="Where the chart is installed. Default: found.")
]


def report(
    *, to: Path_ = None, install_namespace: Install = None, namespace: Namespace = None, context: Context = None
) -> None:
    """Write a support bundle of the namespace and of the operator: redacted, and never with Secrets in it."""
    cluster = Cluster(context, namespace)
    target = to or Path(f"llmops-report-{now():%Y%m%dT%H%M%SZ}.tar.gz")
    missing = []
    try:
        with tarfile.open(target, "x:gz") as bundle:
            _add(
                bundle,
                "versions.json",
                json.dumps(_versions(cluster), indent=2),
            )
            found = doctor.findings(cluster, install_namespace)
            _add(bundle, "doctor.json", json.dumps([asdict(finding) for finding in found], indent=2))
            for name, text in _everything(cluster, install_namespace):
                if isinstance(text, Refused):
                    missing.append(f"{name}: {text.message}")
                else:
                    _add(bundle, name, text)
            _add(bundle, "missing.txt", "\n".join(missing) + "\n")
    except FileExistsError as error:
        raise CliError(f"{target} exists already", NO) from error
    except Refused as refusal:
        target.unlink(missing_ok=True)
        raise refusal.exit() from refusal
    typer.echo(str(target))
    if missing:
        typer.echo(f"{len(missing)} parts could not be read; missing.txt in the bundle says which", err=True)


def _versions(cluster: Cluster) -> Json:
    from importlib.metadata import version  # noqa: PLC0415 - a fifth of the start-up time

    return {"llmops": version("llmops-operator"), "kubernetes": cluster.page("/version")["gitVersion"]}


def _everything(cluster: Cluster, install_namespace: str | None) -> Iterator[tuple[str, str | Refused]]:
    """Files of the bundle, or what kept one from being read."""
    for resource in KINDS:
        name = f"{cluster.namespace}/{resource.plural}.json"
        try:
            yield name, json.dumps(masked(cluster.list(resource, cluster.namespace)), indent=2)
        except Refused as refusal:
            if refusal.status != 404:  # a kind this cluster does not serve
                yield name, refusal
    for component, selector in (("operator", doctor.OPERATOR), ("gateway", gateway.SELECTOR)):
        try:
            pods = cluster.list(resources.POD, install_namespace, labelSelector=selector)
        except Refused as refusal:
            yield f"{component}/pods.json", refusal
            continue
        yield f"{component}/pods.json", json.dumps(masked(pods), indent=2)
        for pod in pods:
            yield from _log(cluster, component, pod)


def _log(cluster: Cluster, component: str, pod: Json) -> Iterator[tuple[str, str | Refused]]:
    meta = pod["metadata"]
    name = f"{component}/{meta['name']}.log"
    try:
        container = pod["spec"]["containers"][0]["name"]
        yield name, "\n".join(cluster.logs(meta["namespace"], meta["name"], container=container, tail=LOG_LINES))
    except Refused as refusal:
        yield name, refusal


def masked(value: Any) -> Any:
    """The value without what a secret may hide in: words of programs, environment values, annotations with copies.

    Each text is searched before it is written as JSON, which would put a backslash before the quotes of a secret.
    """
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, list):
        return [masked(each) for each in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("name"), str) and "value" in value and _SECRET_NAME.search(value["name"]):
        return {**value, "value": MASK}
    hidden = ("managedFields", "kubectl.kubernetes.io/last-applied-configuration")
    return {key: masked(each) for key, each in value.items() if key not in hidden}


def _add(bundle: tarfile.TarFile, name: str, text: str) -> None:
    data = redacted(text).encode()
    entry = tarfile.TarInfo(f"llmops-report/{name}")
    entry.size, entry.mtime, entry.mode = len(data), int(now().timestamp()), 0o600
    bundle.addfile(entry, io.BytesIO(data))
