"""Checking a repository: what is missing, cut, changed or swapped, by name, and which points it costs.

Structure (every record opens, every object is there with its recorded size) costs a listing and is checked each time.
Reading the bytes rotates: blobs fall into 256 shards by name, a run reads the shards that have waited longest, enough
that each is read within the cover time, and what has never been read.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from llmops_serving.jobs.repository.errors import Damaged, Missing, PointNotFound, RepositoryError
from llmops_serving.jobs.repository.findings import Finding, record_findings
from llmops_serving.jobs.repository.format import Blob, Manifest, PointRef
from llmops_serving.jobs.repository.layout import layout_findings
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.repository.target import Stored
from llmops_serving.jobs.repository.write import Progress

SHARDS: Final = 256
STATE: Final = "verify-state"
Depth = Literal["structure", "due", "all"]


@dataclass(frozen=True, slots=True)
class Report:
    """`bad` are the points that cannot be restored; of the `verified`, every byte has been read and was right."""

    findings: tuple[Finding, ...]
    points: int
    bad: tuple[PointRef, ...]
    verified: tuple[PointRef, ...]
    read_objects: int
    read_bytes: int
    objects: int

    @property
    def clean(self) -> bool:
        return not any(finding.lost for finding in self.findings)


def verify(
    repository: Repository,
    secret: bytes,
    *,
    depth: Depth = "due",
    cover: timedelta = timedelta(days=30),
    every: timedelta = timedelta(days=7),
    layouts: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Check the repository and record what was found sound.

    Args:
        repository: which.
        secret: opens the wrapped keys, which are checked as well.
        depth: `structure` reads records only; `due` also the blobs whose turn it is; `all` every blob.
        cover: within which every byte is to be read again.
        every: how often this runs, from which follows how much a run reads.
        layouts: also open the safetensors headers and compare them with config.json.
        progress: called with bytes read and to be read.

    Raises:
        TargetDenied, TargetUnreachable: nothing was concluded.
    """
    now = repository.target.now()
    objects = dict(repository.objects())
    findings = record_findings(repository, secret)
    manifests, unreadable = _manifests(repository)
    findings += [Finding(ref.object, str(problem), (str(ref),)) for ref, problem in unreadable.items()]
    users = _users(manifests)
    faulty = {blob: problem for blob in users if (problem := _structure_problem(blob, objects, users))}
    state = _state(repository)
    chosen = _due(repository, objects, users, state, now=now, depth=depth, cover=cover, every=every)
    todo = [blob for blob in sorted(chosen, key=lambda blob: blob.id) if blob not in faulty]
    faulty |= _read(repository, todo, objects, progress)
    findings += [
        Finding(blob.object, problem, tuple(sorted(str(ref) for ref in users.get(blob, ()))))
        for blob, problem in faulty.items()
    ]
    bad = set(unreadable) | _unrestorable(manifests, faulty)
    if layouts:
        for ref in sorted(set(manifests) - bad):
            findings += [
                Finding(f"{ref}/{path}", problem, (str(ref),))
                for path, problem in layout_findings(repository, manifests[ref])
            ]
    sound = _record(
        repository, manifests, bad=bad, faulty=faulty, chosen=chosen, objects=objects, state=state, now=now, depth=depth
    )
    read_bytes = sum(objects[blob].bytes for blob in todo)
    return Report(
        tuple(sorted(findings)), len(manifests) + len(unreadable), tuple(sorted(bad)), tuple(sorted(sound)), len(todo),
        read_bytes, len(objects),
    )  # fmt: skip


def _manifests(repository: Repository) -> tuple[dict[PointRef, Manifest], dict[PointRef, RepositoryError]]:
    manifests: dict[PointRef, Manifest] = {}
    unreadable: dict[PointRef, RepositoryError] = {}
    for ref in repository.points():
        try:
            manifests[ref] = repository.manifest(ref)
        except PointNotFound:
            continue  # dropped since the listing
        except RepositoryError as problem:
            unreadable[ref] = problem
    return manifests, unreadable


def _users(manifests: Mapping[PointRef, Manifest]) -> dict[Blob, set[PointRef]]:
    users: dict[Blob, set[PointRef]] = defaultdict(set)
    for ref, manifest in manifests.items():
        for blob in manifest.blobs():
            users[blob].add(ref)
    return users


def _structure_problem(blob: Blob, objects: Mapping[Blob, Stored], users: Mapping[Blob, set[PointRef]]) -> str:
    return "" if blob in objects else f"missing; needed by {len(users[blob])} points"


def _due(
    repository: Repository,
    objects: Mapping[Blob, Stored],
    users: Mapping[Blob, set[PointRef]],
    state: Mapping[str, float],
    *,
    now: datetime,
    depth: Depth,
    cover: timedelta,
    every: timedelta,
) -> set[Blob]:
    if depth == "structure":
        return set()
    if depth == "all":
        return set(objects)
    deadline = (now - cover + every).timestamp()
    share = max(1, min(SHARDS, -(-SHARDS * every // cover)))
    oldest = sorted(range(SHARDS), key=lambda shard: state.get(f"{shard:02x}", 0.0))
    shards = {f"{shard:02x}" for shard in oldest[:share]}
    shards |= {f"{shard:02x}" for shard in oldest if 0 < state.get(f"{shard:02x}", 0.0) < deadline}
    proven = repository.marked("verified")
    unread = {blob for blob in objects if objects[blob].modified.timestamp() > state.get(blob.id[:2], 0.0)}
    unproven = {blob for blob in unread if not users.get(blob, set()) & proven}
    return {blob for blob in objects if blob.id[:2] in shards} | unproven


def _read(
    repository: Repository, blobs: Iterable[Blob], objects: Mapping[Blob, Stored], progress: Progress | None
) -> dict[Blob, str]:
    todo = list(blobs)
    total = sum(objects[blob].bytes for blob in todo)
    done = 0
    faulty: dict[Blob, str] = {}
    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0))) + 2, thread_name_prefix="verify") as pool:
        for blob, problem in zip(todo, pool.map(lambda blob: _problem(repository, blob), todo), strict=True):
            done += objects[blob].bytes
            if problem:
                faulty[blob] = problem
            if progress:
                progress(done, total)
    return faulty


def _problem(repository: Repository, blob: Blob) -> str:
    try:
        repository.read_exactly(blob)
    except Missing as problem:
        return "gone since the listing" if blob.object in problem.findings else f"its base is missing: {problem}"
    except Damaged as problem:
        return str(problem)
    return ""


def _unrestorable(manifests: Mapping[PointRef, Manifest], faulty: Mapping[Blob, str]) -> set[PointRef]:
    return {ref for ref, manifest in manifests.items() if any(blob in faulty for blob in manifest.blobs())}


def _state(repository: Repository) -> dict[str, float]:
    try:
        return {str(shard): float(at) for shard, at in repository.read_record(STATE).items()}
    except (Damaged, ValueError, AttributeError):
        return {}  # everything is due again


def _record(
    repository: Repository,
    manifests: Mapping[PointRef, Manifest],
    *,
    bad: set[PointRef],
    faulty: Mapping[Blob, str],
    chosen: set[Blob],
    objects: Mapping[Blob, Stored],
    state: Mapping[str, float],
    now: datetime,
    depth: Depth,
) -> set[PointRef]:
    """Write down which points are proven, which shards were read and which objects are damaged.

    No new point refers to a damaged object; a point that turned bad loses its mark.
    """
    proven = repository.marked("verified")
    held_back = [f"verified/{ref.name}/{ref.point}" for ref in proven & bad]
    repository.target.delete(held_back)
    marked = repository.damaged()
    for blob in faulty.keys() & objects.keys():
        repository.write_record(f"damaged/{blob.id}", {"problem": faulty[blob]})
    repository.target.delete([f"damaged/{blob.id}" for blob in chosen - faulty.keys() if blob.object in marked])
    if depth == "structure":
        return proven - bad
    read = {shard for shard in (f"{number:02x}" for number in range(SHARDS))
            if all(blob in chosen for blob in objects if blob.id.startswith(shard))}  # fmt: skip
    after = {**state, **dict.fromkeys(read, now.timestamp())}
    repository.write_record(STATE, after)
    sound = {ref for ref in proven if ref in manifests} - bad
    for ref, manifest in manifests.items():
        known = all(
            blob in chosen or objects[blob].modified.timestamp() <= state.get(blob.id[:2], 0.0)
            for blob in manifest.blobs() if blob in objects
        )  # fmt: skip
        if ref not in bad and ref not in proven and known:
            repository.write_record(f"verified/{ref.name}/{ref.point}", {"at": now.isoformat()})
            sound.add(ref)
    return sound
