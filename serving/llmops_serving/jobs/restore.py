"""`python -m llmops_serving.jobs.restore --target URL NAME[@POINT] DIR`: a point, checked, as a directory."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from functools import cache
from importlib import import_module
from pathlib import Path

from llmops_serving.jobs.repository import job
from llmops_serving.jobs.repository.errors import PointNotFound
from llmops_serving.jobs.repository.format import POINT, FileEntry, Manifest, PointRef, parsed_ref
from llmops_serving.jobs.repository.read import Fetch, restore
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.weights import content
from llmops_serving.jobs.weights.names import MARKER


def arguments() -> argparse.ArgumentParser:
    parser = job.parser("llmops_serving.jobs.restore", __doc__ or "")
    say = parser.add_argument
    say("point", metavar="NAME[@POINT]", help="without POINT, the newest verified one")
    say("destination", type=Path)
    say("--allow-pickle", action="store_true")
    say("--threads", type=int, default=0)
    return parser


def main(options: argparse.Namespace, secret: bytes) -> job.Outcome:
    # Records of what is restored take a tenth of a second to import: meanwhile the key is derived and the disk read.
    threading.Thread(target=import_module, args=("llmops_serving.jobs.restored",), daemon=True).start()
    if (options.destination / MARKER).exists():
        from llmops_serving.jobs.restored import there  # noqa: PLC0415

        if done := there(options.destination, options.point):
            return done  # a Job that comes back; "the newest" stays what it was
    repository = job.opened(options, secret)
    ref = _chosen(repository, options.point, options.destination)

    def approve(staging: Path, manifest: Manifest) -> None:
        from llmops_serving.jobs.restored import marker_of  # noqa: PLC0415

        checked(staging, manifest)
        marker_of(manifest, options.point).write(staging / MARKER)

    restore(
        repository,
        ref,
        options.destination,
        fetch=hub_files(options),
        approve=approve,
        allow_pickle=options.allow_pickle,
        threads=options.threads,
        progress=job.logged_progress(),
    )
    from llmops_serving.jobs.restored import complete, marker_of  # noqa: PLC0415

    return complete(marker_of(repository.manifest(ref), options.point))


def hub_files(options: argparse.Namespace) -> Fetch:
    """What fetches files that were kept as pointers, by the job's one way out."""

    @cache
    def hub() -> Fetch:
        # A third of a job's start, which is all of it for an adapter; few points have pointers.
        from llmops_serving.jobs.repository.hub_files import HubFiles  # noqa: PLC0415

        return HubFiles(endpoint=options.hub_endpoint, token=os.environ.get("HF_TOKEN"), proxy=options.egress.url)

    def fetch(file: FileEntry, at: Path) -> None:
        hub()(file, at)

    return fetch


def checked(staging: Path, manifest: Manifest) -> None:
    """Refuse what a download would refuse: whoever wrote the point may be hostile to the engine that loads it.

    Raises:
        Failure: UnsafeModel or ChecksumMismatch.
    """
    listed = frozenset(file.path for file in manifest.files)
    for file in manifest.files:
        content.check(file.path, staging / file.path, trust_remote_code=False, listed=listed)


def _chosen(repository: Repository, point: str, destination: Path) -> PointRef:
    """The point asked for. An interrupted restore of "the newest" goes on with the point that it began with."""
    name, exact = parsed_ref(point)
    begun = re.compile(rf"[.]{re.escape(destination.name)}[.]{re.escape(name)}[.]({POINT.pattern})[.]partial")
    for place in sorted(destination.parent.glob(f".{destination.name}.{name}.*.partial"), reverse=True):
        if not exact and (found := begun.fullmatch(place.name)):
            try:
                return repository.find(f"{name}@{found[1]}")
            except PointNotFound:
                continue
    return repository.find(point)


if __name__ == "__main__":
    sys.exit(job.run(main, arguments(), sys.argv[1:], os.environ))
