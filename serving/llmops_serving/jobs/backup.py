"""`python -m llmops_serving.jobs.backup --target URL --name NAME DIR`: one restore point of a model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from llmops_serving.jobs.repository import job
from llmops_serving.jobs.repository.errors import Unsafe
from llmops_serving.jobs.repository.format import ADAPTERS, PointRef, parsed_ref, point_id
from llmops_serving.jobs.repository.pointer import PointerMode, pointers
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.repository.write import Backup, backup
from llmops_serving.jobs.weights.marker import Marker
from llmops_serving.jobs.weights.names import MARKER


def arguments() -> argparse.ArgumentParser:
    parser = job.parser("llmops_serving.jobs.backup", __doc__ or "")
    say = parser.add_argument
    say("roots", nargs="+", metavar="[PREFIX=]DIR", help="the model's directory, and adapters as adapters/NAME=DIR")
    say("--name", required=True, help="what the point is of, as NAME or NAME@POINT; the time now when without POINT")
    say("--scheduled-by", default="", metavar="JOB", help="a CronJob's Job: its name ends in the minute that is due")
    say("--documents", type=Path, help="a directory of JSON files to keep along: resources, ConfigMaps, baselines")
    say("--resource", action="append", default=[], metavar="JSON", help="a resource to keep along")
    say("--config-map", action="append", default=[], metavar="NAME=DIR", help="a mounted ConfigMap to keep along")
    say("--base", default="", help="NAME[@POINT] of the model that this one was tuned from; found by itself if absent")
    say("--weights", choices=[mode.value for mode in PointerMode], default=PointerMode.AUTO.value)
    say("--source", default="", help="where the weights came from, hf://ORG/NAME, for pointers")
    say("--revision", default="", help="the commit that the source was resolved to")
    say("--trained-here", action="store_true", help="never keep these weights as a pointer")
    say("--cache", type=Path, help="a directory that survives the pod, for hashes of unchanged files")
    say("--grace", type=job.duration, help="of a repository that this creates: how long garbage stays (24h)")
    say("--lock-mode", choices=["GOVERNANCE", "COMPLIANCE"], help="S3 Object Lock")
    say("--lock-days", type=int, default=30)
    say("--allow-pickle", action="store_true")
    say("--threads", type=int, default=0)
    return parser


def main(options: argparse.Namespace, secret: bytes) -> job.Outcome:
    name, point = parsed_ref(options.name)
    ref = PointRef(name, point or point_id(_due(options.scheduled_by)))
    repository = job.opened_or_created(options, secret, grace=options.grace)
    roots = _roots(options.roots)
    mode = PointerMode(options.weights)
    kept_as_url = pointers(mode, roots, options.source, options.revision, trained_here=options.trained_here)
    locks = _Locks(repository, options) if options.lock_mode else None
    marker = _marker(roots.get(""))
    done: Backup = backup(
        repository,
        roots,
        ref=ref,
        documents=_documents(options),
        pointers=kept_as_url,
        base=repository.find(options.base) if options.base else None,
        cache_folder=options.cache,
        vouched=_vouched(roots, marker),
        allow_pickle=options.allow_pickle,
        # What a restore has put beside the model are adapters, and each that is still served is a root of its own.
        without=[roots[""] / ADAPTERS] if marker and marker.source.startswith("backup://") else [],
        threads=options.threads,
        lock=locks.before if locks else None,
        progress=job.logged_progress(),
    )
    if locks:
        locks.after(ref)
    return job.complete(f"{done.files} files, {done.bytes:,} bytes, {done.new_bytes:,} new, as {ref.source}", done)


class _Locks:
    """Object Lock of a point: what it needs before it is committed, and its records after."""

    def __init__(self, repository: Repository, options: argparse.Namespace) -> None:
        from llmops_serving.jobs.repository import lock  # noqa: PLC0415 - its client is a third of a job's start

        retention = lock.Retention(options.lock_mode, options.lock_days)
        self.before = lock.relocked(repository, retention, os.environ)
        self._records = partial(lock.lock_records, retention=retention, environment=os.environ)
        self._repository = repository

    def after(self, ref: PointRef) -> None:
        self._records(self._repository, self._repository.manifest(ref))


def _due(scheduled_by: str) -> datetime:
    """When the point was due: a pod that is started again must find its own point and not make another."""
    minutes = scheduled_by.rpartition("-")[2]
    return datetime.fromtimestamp(60 * int(minutes), UTC) if minutes else datetime.now(UTC)


def _marker(model: Path | None) -> Marker | None:
    """What the weights job left beside the model when it had verified it."""
    return Marker.read(model / MARKER) if model else None


def _vouched(roots: Mapping[str, Path], marker: Marker | None) -> dict[str, str]:
    """Digests of the model's files as the weights job left them, of those that have not been written since."""
    if marker is None:
        return {}
    model = roots[""]
    sealed = (model / MARKER).stat().st_mtime_ns
    mine = (file for file in marker.files if _lies_in(model, file.path, roots) and (model / file.path).is_file())
    return {file.path: file.sha256 for file in mine if (model / file.path).stat().st_mtime_ns <= sealed}


def _lies_in(model: Path, path: str, roots: Mapping[str, Path]) -> bool:
    """Whether the point's file of this path is the model directory's, and not an adapter's from somewhere else."""
    inside = ((prefix, root) for prefix, root in roots.items() if prefix and path.startswith(prefix + "/"))
    return all(root == model / prefix for prefix, root in inside)


def _roots(given: list[str]) -> dict[str, Path]:
    roots: dict[str, Path] = {}
    for text in given:
        prefix, separator, path = text.rpartition("=")
        roots[prefix if separator else ""] = Path(path)
    for folder in roots.values():
        if not folder.is_dir():
            raise Unsafe(f"{folder} is not a directory")
    return roots


def _documents(options: argparse.Namespace) -> dict[str, Any]:
    """What is kept beside the files, by file name."""
    found: dict[str, Any] = {}
    try:
        for at in sorted(options.documents.glob("*.json")) if options.documents else ():
            found[at.name] = json.loads(at.read_bytes())
        for text in options.resource:
            resource = json.loads(text)
            found[f"{resource['kind']}.{resource['metadata']['name']}.json"] = resource
    except (ValueError, KeyError, TypeError) as problem:
        raise Unsafe(f"a document is no resource in JSON: {problem}") from problem
    for text in options.config_map:
        name, _, folder = text.partition("=")
        data = {at.name: at.read_text() for at in sorted(Path(folder).iterdir()) if at.is_file()}
        if data:  # one that does not exist is mounted as an empty directory
            found[f"ConfigMap.{name}.json"] = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name},
                "data": data,
            }
    return found


if __name__ == "__main__":
    sys.exit(job.run(main, arguments(), sys.argv[1:], os.environ))
