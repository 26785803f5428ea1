"""`python -m llmops_serving.jobs.restore --target URL NAME[@POINT] DIR`: a point, checked, as a directory."""

from __future__ import annotations

import argparse
import os
import re
import sys
from functools import cache
from pathlib import Path

from llmops_serving.jobs.adapters.store import FILES
from llmops_serving.jobs.repository import job
from llmops_serving.jobs.repository.errors import PointNotFound
from llmops_serving.jobs.repository.format import ADAPTERS, POINT, FileEntry, Manifest, PointRef, parsed_ref
from llmops_serving.jobs.repository.read import Fetch, restore
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.weights import content
from llmops_serving.jobs.weights.marker import Landed, Marker, completed, total_digest
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
    there = completed(options.destination)
    if there and there.requested == options.point:  # a Job that comes back; "the newest" stays what it was
        return _complete(there)
    repository = job.opened(options, secret)
    ref = _chosen(repository, options.point, options.destination)

    def approve(staging: Path, manifest: Manifest) -> None:
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
    return _complete(marker_of(repository.manifest(ref), options.point))


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


def marker_of(manifest: Manifest, requested: str) -> Marker:
    """What the weights job leaves beside a model, for a restored one; the digest is the model's without adapters."""
    return Marker(
        source=f"backup://{manifest.ref.source}",
        requested=requested,
        revision=manifest.ref.source,
        digest=manifest.digest,
        bytes=manifest.bytes,
        files=tuple(Landed(path=file.path, size_bytes=file.bytes, sha256=file.sha256) for file in manifest.files),
    )


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


def _complete(marker: Marker) -> job.Outcome:
    adapters = adapters_of(marker)
    with_adapters = f", with {len(adapters)} adapters" if adapters else ""
    message = f"{len(marker.files)} files, {marker.bytes:,} bytes{with_adapters}, every digest checked."
    facts = {
        "revision": marker.revision,
        "digest": marker.digest,
        "bytes": marker.bytes,
        "files": len(marker.files),
        "adapters": adapters,
    }
    return job.Outcome("Complete", message, 0, facts)


def adapters_of(marker: Marker) -> dict[str, str]:
    """The adapters of a restored point: by name the digest of what an engine loads, as its FineTuneJob took it.

    Shortened, as the names of their directories are: 32 of them must fit into a termination message.
    """
    found: dict[str, list[Landed]] = {}
    for file in marker.files:
        if file.path.startswith(ADAPTERS):
            _, name, inside = file.path.split("/", 2)
            found.setdefault(name, [])
            if inside in FILES:
                found[name].append(file.model_copy(update={"path": inside}))
    return {name: total_digest(files)[: len("sha256:") + 16] for name, files in sorted(found.items())}


if __name__ == "__main__":
    sys.exit(job.run(main, arguments(), sys.argv[1:], os.environ))
