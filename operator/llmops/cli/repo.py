"""`llmops repo`: look into a weights repository, check it and take things out, with the bucket and the key alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from llmops import names
from llmops.desired.drift import memory_name
from llmops.judge.retention import Policy
from llmops_serving.jobs.repository.collect import collect, drop, hold
from llmops_serving.jobs.repository.errors import KeyWrong, RepositoryError
from llmops_serving.jobs.repository.format import ADAPTERS, Manifest
from llmops_serving.jobs.repository.hub_files import HubFiles
from llmops_serving.jobs.repository.read import restore
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.repository.target import Target
from llmops_serving.jobs.repository.verify import Depth, Report, verify

Json = dict[str, Any]

KEY_VARIABLE = "LLMOPS_REPOSITORY_KEY"

app = typer.Typer(help=__doc__, no_args_is_help=True)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

TargetUrl = Annotated[str, typer.Option("--target", "-t", envvar="LLMOPS_REPOSITORY", help="s3:// gs:// az:// file://")]
KeyFile = Annotated[Path | None, typer.Option("--key-file", "-k", help=f"the key; else the variable {KEY_VARIABLE}")]
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable, for scripts")]
Point = Annotated[str, typer.Argument(metavar="NAME[@POINT]", help="without POINT, the newest verified one")]


@app.command("list")
def list_points(target: TargetUrl, key_file: KeyFile = None, *, as_json: AsJson = False) -> None:
    """List the points: what, when, how large, verified or not."""
    with _explained():
        repository = _open(target, key_file)
        verified, held = repository.marked("verified"), repository.marked("holds")
        rows = [
            {
                "name": ref.name,
                "point": ref.point,
                "files": len(manifest.files),
                "bytes": manifest.bytes,
                "verified": ref in verified,
                "held": ref in held,
            }
            for ref in repository.points()
            for manifest in [repository.manifest(ref)]
        ]
    if as_json:
        out.print_json(json.dumps(rows))
        return
    table = Table("NAME", "POINT", "FILES", "SIZE", "VERIFIED", "HELD", box=None)
    for row in rows:
        flags = ("yes" if row[flag] else "" for flag in ("verified", "held"))
        table.add_row(str(row["name"]), str(row["point"]), str(row["files"]), f"{row['bytes']:,}", *flags)
    out.print(table)


@app.command()
def check(
    target: TargetUrl,
    key_file: KeyFile = None,
    *,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="read every stored byte, not only what is due")
    ] = False,
    layouts: Annotated[bool, typer.Option("--layouts", help="compare safetensors headers with config.json")] = False,
    as_json: AsJson = False,
) -> None:
    """Name everything that is missing, cut, changed or swapped; exit code 1 when anything is lost."""
    with _explained(), _progress("checking") as progress:
        secret = _secret(key_file)
        repository = Repository.open(Target.open(target), secret)
        depth: Depth = "all" if read_data else "due"
        report = verify(repository, secret, depth=depth, layouts=layouts, progress=progress)
    _print_report(report, as_json=as_json)
    if not report.clean:
        raise typer.Exit(1)


@app.command()
def extract(
    point: Point,
    destination: Path,
    target: TargetUrl,
    key_file: KeyFile = None,
    *,
    allow_pickle: Annotated[bool, typer.Option(help="also restore formats that run code when loaded")] = False,
) -> None:
    """Restore a point as a directory that appears complete and checked, or not at all."""
    with _explained(), _progress("restoring") as progress:
        repository = _open(target, key_file)
        done = restore(
            repository,
            repository.find(point),
            destination,
            fetch=HubFiles(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ.get("HF_TOKEN")),
            allow_pickle=allow_pickle,
            progress=progress,
        )
    out.print(f"{done.ref}: {done.files} files, {done.bytes:,} bytes in {done.seconds:.1f} s, every digest checked")


@app.command()
def gc(
    target: TargetUrl,
    key_file: KeyFile = None,
    *,
    name: Annotated[str, typer.Option(help="apply retention to this name only")] = "",
    keep_last: int = 0,
    keep_daily: int = 0,
    keep_weekly: int = 0,
    keep_monthly: int = 0,
    keep_yearly: int = 0,
    deployed: Annotated[list[str] | None, typer.Option(help="NAME@POINT that serves now; repeatable")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and why the rest stays")] = False,
) -> None:
    """Drop points outside of retention, then delete what no point needs (a grace period later)."""
    policy = Policy(keep_last, keep_daily, keep_weekly, keep_monthly, keep_yearly)
    with _explained():
        repository = _open(target, key_file)
        serving = [repository.find(text) for text in deployed or []]
        done = collect(repository, policies={name: policy}, deployed=serving, dry_run=dry_run)
    for ref, verdict in done.kept.items():
        out.print(f"{'keep' if verdict.keep else 'drop'} {ref}  {', '.join(verdict.reasons)}", highlight=False)
    tail = " (dry run: nothing was changed)" if dry_run else ""
    out.print(f"{len(done.dropped)} points dropped, {done.deleted} objects deleted, {done.condemned} condemned{tail}")


@app.command()
def recover(destination: Path, target: TargetUrl, key_file: KeyFile = None) -> None:
    """Write the resources to apply in an empty cluster: the newest verified point of each name as its model source."""
    with _explained():
        repository = _open(target, key_file)
        destination.mkdir(parents=True, exist_ok=True)
        for name in sorted({ref.name for ref in repository.points()}):
            manifest = repository.manifest(repository.find(name))
            at = destination / f"{name}.yaml"
            at.write_text(yaml.safe_dump_all(recovered(manifest), sort_keys=False), encoding="utf-8")
            out.print(f"{at}: {manifest.ref.source}, {len(manifest.documents)} resources")


@app.command("hold")
def hold_point(
    point: Point,
    target: TargetUrl,
    key_file: KeyFile = None,
    *,
    release: Annotated[bool, typer.Option("--release", help="stop holding")] = False,
) -> None:
    """Keep a point whatever retention says."""
    with _explained():
        repository = _open(target, key_file)
        hold(repository, repository.find(point), on=not release)


@app.command("drop")
def drop_point(
    point: Annotated[str, typer.Argument(metavar="NAME@POINT")], target: TargetUrl, key_file: KeyFile = None
) -> None:
    """Forget one point; its bytes go with later collections."""
    with _explained():
        repository = _open(target, key_file)
        if "@" not in point:
            raise typer.BadParameter("name the point to drop in full: NAME@POINT")
        drop(repository, repository.find(point))


@app.command("rotate-key")
def rotate_key(new_key_file: Path, target: TargetUrl, key_file: KeyFile = None) -> None:
    """Wrap the repository's key with another Secret; nothing is encrypted anew, and the old Secret opens it no more."""
    with _explained():
        _open(target, key_file).rotate(new_key_file.read_bytes())


def recovered(manifest: Manifest) -> list[Json]:
    """The point's resources, ready to apply: without status and server-set metadata, the model from the backup.

    Deployments come last: what one has learned must be there when it is looked at first.
    """
    documents = [each for each in manifest.documents.values() if isinstance(each, dict) and "kind" in each]
    deployments = [each for each in documents if each["kind"] == "LLMDeployment"]
    learned = {memory_name(each["metadata"]["name"]): each["metadata"] for each in deployments}
    resources = []
    for document in sorted(documents, key=lambda each: bool(each["kind"] == "LLMDeployment")):
        metadata = document.get("metadata", {})
        kept = {key: metadata[key] for key in ("name", "namespace", "labels", "annotations") if key in metadata}
        resource = {**{key: value for key, value in document.items() if key != "status"}, "metadata": kept}
        if document["kind"] == "LLMDeployment":
            resource["spec"] = _restoring(document["spec"], manifest)
        if document["kind"] == "ConfigMap" and (of := learned.get(kept["name"])):
            # With these labels the operator finds it, and makes it the deployment's own.
            kept["labels"] = {**names.MANAGED_BY, names.LABEL_DEPLOYMENT: of["name"]}
            kept |= {"namespace": of["namespace"]} if "namespace" in of else {}
        resources.append(resource)
    return resources


def _restoring(spec: Json, manifest: Manifest) -> Json:
    """A deployment's spec that takes model and adapters out of the point."""
    model = {**spec["model"], "source": f"backup://{manifest.ref.source}"}
    for of_the_old_source in ("revision", "secretRef"):
        model.pop(of_the_old_source, None)
    came_along = {file.path.split("/")[1] for file in manifest.files if file.path.startswith(ADAPTERS)}
    adapters = [
        {**adapter, "source": model["source"]} if adapter["name"] in came_along else adapter
        for adapter in spec.get("adapters", [])
    ]
    backup = {key: value for key, value in spec.get("backup", {}).items() if key != "weights"}
    changed = {"model": model, "backup": backup, "adapters": adapters}
    return {**spec, **{key: value for key, value in changed.items() if value}}


def _open(target: str, key_file: Path | None) -> Repository:
    return Repository.open(Target.open(target), _secret(key_file))


def _secret(key_file: Path | None) -> bytes:
    if key_file:
        return key_file.read_bytes()
    if KEY_VARIABLE not in os.environ:
        raise KeyWrong(f"there is no key: give --key-file or {KEY_VARIABLE}")
    return os.environ[KEY_VARIABLE].encode()


def _print_report(report: Report, *, as_json: bool) -> None:
    if as_json:
        findings = [
            {"object": finding.object, "problem": finding.problem, "points": finding.points, "lost": finding.lost}
            for finding in report.findings
        ]
        out.print_json(json.dumps({"points": report.points, "clean": report.clean, "findings": findings}))
        return
    for finding in report.findings:
        mark = "LOST" if finding.lost else "note"
        out.print(f"{mark} {finding.object}: {finding.problem}  {' '.join(finding.points)}", highlight=False)
    out.print(
        f"{report.points} points, {len(report.bad)} cannot be restored; read {report.read_objects} of "
        f"{report.objects} objects, {report.read_bytes:,} bytes"
    )


@contextmanager
def _explained() -> Iterator[None]:
    """A failure is one line and exit code 1, never a traceback."""
    try:
        yield
    except (RepositoryError, OSError) as problem:
        reason = getattr(problem, "reason", "Error")
        err.print(f"{reason}: {problem}", style="red", highlight=False)
        raise typer.Exit(1) from problem


@contextmanager
def _progress(verb: str) -> Iterator[Callable[[int, int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
