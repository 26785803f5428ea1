"""Retention and garbage collection without a lock file: drop points, condemn what none needs, delete it a grace later.

Why two writers and a killed collector are safe, with G the grace period and all times by the store's clock:

- an object is condemned only when no manifest names it and it is older than G, and deleted only when it has been
  condemned for G and still no manifest names it;
- a writer never refers to a condemned object; it stores the content again, under another name;
- a writer that looked before the object was condemned commits within G/2 or not at all, so its manifest is there when
  the deletion looks;
- a crash anywhere leaves a list that the next run takes up, or objects that the next run condemns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from llmops.judge.retention import Point, Policy, Verdict, judge
from llmops_serving.jobs.repository.errors import Missing, PointNotFound
from llmops_serving.jobs.repository.format import COPY, Manifest, PointRef
from llmops_serving.jobs.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did: points dropped, objects condemned for a later run and deleted by this one."""

    dropped: tuple[PointRef, ...]
    condemned: int
    deleted: int
    deleted_bytes: int
    kept: Mapping[PointRef, Verdict]


def collect(
    repository: Repository,
    *,
    policies: Mapping[str, Policy] | None = None,
    deployed: Collection[PointRef] = (),
    held: Collection[PointRef] = (),
    failed: Collection[PointRef] = (),
    dry_run: bool = False,
) -> Collected:
    """Apply retention per name (`policies`; a name without one keeps everything), then collect garbage.

    `held` points stay like those that have the mark in the repository.

    Raises:
        Damaged: a manifest cannot be read. Nothing is deleted then: what that point needs is unknown.
    """
    target = repository.target
    now = target.now()
    verdicts = _verdicts(repository, policies or {}, deployed, {*held, *repository.marked("holds")}, failed)
    dropped = tuple(ref for ref, verdict in verdicts.items() if not verdict.keep)
    if not dry_run:
        for ref in dropped:
            drop(repository, ref)
    manifests = _manifests(repository, set(dropped) if dry_run else set())
    live = {blob.object for manifest in manifests for blob in manifest.blobs()}
    stored = {entry.name: entry for _, entry in repository.objects()}
    waiting = repository.condemned()
    grace = repository.header.grace_seconds
    ripe = {name: names for name, (entry, names) in waiting.items() if (now - entry.modified).total_seconds() > grace}
    doomed = sorted({name for names in ripe.values() for name in names if name in stored and name not in live})
    listed = {name for _, names in waiting.values() for name in names}
    unneeded = [
        name
        for name, entry in stored.items()
        if name not in live and name not in listed and (now - entry.modified).total_seconds() > grace
    ]
    if not dry_run:
        target.delete(doomed)
        target.delete([*ripe, *(COPY + name for name in ripe)])  # last: a crash in between repeats the deletion
        target.delete([f"damaged/{name.rsplit('/', 1)[-1]}" for name in repository.damaged() - stored.keys()])
        if unneeded:
            repository.condemn(unneeded)
        target.sweep_partial_files(older_than_seconds=grace)
        _finish_drops(repository, now)
        _mend_copies(repository, now)
    return Collected(dropped, len(unneeded), len(doomed), sum(stored[name].bytes for name in doomed), verdicts)


def drop(repository: Repository, ref: PointRef) -> None:
    """Forget a point. The mark comes first and decides; a crash after it is finished by the next collection.

    Without the mark, a collector that mends copies could bring back half of what another one is deleting.
    """
    repository.write_record(f"dropped/{ref.name}/{ref.point}", {})
    _erase(repository, ref)


def _erase(repository: Repository, ref: PointRef) -> None:
    marks = [f"{folder}/{ref.name}/{ref.point}" for folder in ("verified", "holds")]
    repository.target.delete([COPY + ref.object, ref.object, *marks])


def _finish_drops(repository: Repository, now: datetime) -> None:
    """Carry out what a killed collector left, and forget marks that no running one can still stumble over."""
    age = {entry.name: (now - entry.modified).total_seconds() for entry in repository.target.list("dropped")}
    for ref in repository.marked("dropped"):
        _erase(repository, ref)
        mark = f"dropped/{ref.name}/{ref.point}"
        if age.get(mark, 0) > 2 * repository.header.grace_seconds:
            repository.target.delete([mark])


def hold(repository: Repository, ref: PointRef, *, on: bool) -> None:
    """Keep the point whatever retention says, or stop doing so.

    Raises:
        PointNotFound.
    """
    name = f"holds/{ref.name}/{ref.point}"
    if on:
        repository.manifest(ref)
        repository.write_record(name, {})
    else:
        repository.target.delete([name])


def _verdicts(
    repository: Repository,
    policies: Mapping[str, Policy],
    deployed: Collection[PointRef],
    held: Collection[PointRef],
    failed: Collection[PointRef],
) -> dict[PointRef, Verdict]:
    verified = repository.marked("verified")
    by_name: dict[str, list[PointRef]] = {}
    for ref in repository.points():
        by_name.setdefault(ref.name, []).append(ref)
    verdicts: dict[PointRef, Verdict] = {}
    for name, refs in by_name.items():
        points = [
            Point(
                ref.point,
                ref.taken,
                verified=ref in verified,
                failed=ref in failed,
                deployed=ref in deployed,
                held=ref in held,
            )
            for ref in refs
        ]
        judged = judge(points, policies.get(name, policies.get("", Policy())))
        verdicts |= {ref: judged[ref.point] for ref in refs}
    return verdicts


def _manifests(repository: Repository, without: set[PointRef]) -> list[Manifest]:
    manifests = []
    for ref in repository.points():
        if ref in without:
            continue
        try:
            manifests.append(repository.manifest(ref))
        except PointNotFound:
            continue  # another collector dropped it since the listing
    return manifests


def _mend_copies(repository: Repository, now: datetime) -> None:
    """Put back what one of the two places lacks, once it is older than any writer's or dropper's next step."""
    target, grace = repository.target, repository.header.grace_seconds
    originals = {entry.name: entry for entry in target.list("points")}
    copies = {entry.name.removeprefix(COPY): entry for entry in target.list(COPY + "points")}
    dropped = {ref.object for ref in repository.marked("dropped")}
    for name in (originals.keys() ^ copies.keys()) - dropped:
        entry = originals.get(name) or copies[name]
        if (now - entry.modified).total_seconds() <= grace:
            continue
        source, sink = (name, COPY + name) if name in originals else (COPY + name, name)
        try:
            sealed = target.get(source)
            repository.keys.open_record(name, sealed)
        except Missing:
            continue
        target.put(sink, bytes(sealed))
