"""`python -m llmops_serving.jobs.backup --target URL --name NAME DIR`: one restore point of a model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops_serving.jobs.repository import job
from llmops_serving.jobs.repository.errors import Unsafe
from llmops_serving.jobs.repository.format import PointRef, parsed_ref, point_id
from llmops_serving.jobs.repository.lock import Retention, lock_records, relocked
from llmops_serving.jobs.repository.pointer import PointerMode, pointers
from llmops_serving.jobs.repository.write import Backup, backup


def arguments() -> argparse.ArgumentParser:
    parser = job.parser("llmops_serving.jobs.backup", __doc__ or "")
    say = parser.add_argument
    say("roots", nargs="+", metavar="[PREFIX=]DIR", help="the model's directory, and adapters as adapters/NAME=DIR")
    say("--name", required=True, help="what the point is of, as NAME or NAME@POINT; the time now when without POINT")
    say("--documents", type=Path, help="a directory of JSON files to keep along: resources, ConfigMaps, baselines")
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
    ref = PointRef(name, point or point_id(datetime.now(UTC)))
    repository = job.opened_or_created(options, secret, grace=options.grace)
    roots = _roots(options.roots)
    mode = PointerMode(options.weights)
    kept_as_url = pointers(mode, roots, options.source, options.revision, trained_here=options.trained_here)
    retention = Retention(options.lock_mode, options.lock_days) if options.lock_mode else None
    done: Backup = backup(
        repository,
        roots,
        ref=ref,
        documents=_documents(options.documents),
        pointers=kept_as_url,
        base=repository.find(options.base) if options.base else None,
        cache_folder=options.cache,
        allow_pickle=options.allow_pickle,
        threads=options.threads,
        lock=relocked(repository, retention, os.environ) if retention else None,
        progress=job.logged_progress("backing up"),
    )
    if retention:
        lock_records(repository, repository.manifest(ref), retention, os.environ)
    return job.complete(f"{done.files} files, {done.bytes:,} bytes, {done.new_bytes:,} new, as {ref}", done)


def _roots(given: list[str]) -> dict[str, Path]:
    roots: dict[str, Path] = {}
    for text in given:
        prefix, separator, path = text.rpartition("=")
        roots[prefix if separator else ""] = Path(path)
    for folder in roots.values():
        if not folder.is_dir():
            raise Unsafe(f"{folder} is not a directory")
    return roots


def _documents(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {}
    try:
        return {at.name: json.loads(at.read_bytes()) for at in sorted(folder.glob("*.json"))}
    except ValueError as problem:
        raise Unsafe(f"a document is no JSON: {problem}") from problem


if __name__ == "__main__":
    sys.exit(job.run(main, arguments(), sys.argv[1:], os.environ))
