"""What is wrong with the small objects: header, wrapped keys, manifests, marks, and the copies of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from llmops_serving.jobs.repository.crypto import unwrapped
from llmops_serving.jobs.repository.errors import Damaged, KeyWrong, Missing
from llmops_serving.jobs.repository.format import COPY, HEADER
from llmops_serving.jobs.repository.repository import Repository

MARKS: Final = ("verified", "holds", "dropped", "condemned", "damaged")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong. `lost` tells damage from what the next collection repairs (an absent copy)."""

    object: str
    problem: str
    points: tuple[str, ...] = ()
    lost: bool = True


def record_findings(repository: Repository, secret: bytes) -> list[Finding]:
    """Every small object that is missing or does not open, originals and copies."""
    return [
        *_header_findings(repository),
        *_key_findings(repository, secret),
        *_manifest_findings(repository),
        *_mark_findings(repository),
    ]


def _header_findings(repository: Repository) -> Iterator[Finding]:
    for place in (HEADER, COPY + HEADER):
        try:
            if bytes(repository.target.get(place)) != repository.header.raw:
                yield Finding(place, "the header has changed")
        except Missing:
            yield Finding(place, "missing")


def _key_findings(repository: Repository, secret: bytes) -> Iterator[Finding]:
    target, mine = repository.target, f"keys/{repository.header.id}-"
    listed = {stored.name.removeprefix(COPY) for folder in ("keys", COPY + "keys") for stored in target.list(folder)}
    for name in sorted(name for name in listed if name.startswith(mine)):
        for place in (name, COPY + name):
            try:
                unwrapped(target.get(place), secret, bound_to=repository.header.raw)
            except KeyWrong:
                yield Finding(place, "the wrapped key has changed, or is that of another Secret")
            except Missing:
                yield Finding(place, "missing")
            except Damaged as problem:
                yield Finding(place, str(problem))


def _manifest_findings(repository: Repository) -> Iterator[Finding]:
    for ref in repository.points():
        for place in ("", COPY):
            try:
                repository.keys.open_record(ref.object, repository.target.get(place + ref.object))
            except Missing:
                yield Finding(place + ref.object, "missing", (str(ref),), lost=not place)
            except Damaged as problem:
                yield Finding(place + ref.object, str(problem), (str(ref),))


def _mark_findings(repository: Repository) -> Iterator[Finding]:
    for folder in MARKS:
        for stored in repository.target.list(folder):
            try:
                repository.read_record(stored.name)
            except Missing:
                continue  # removed since the listing
            except Damaged as problem:
                yield Finding(stored.name, str(problem))
