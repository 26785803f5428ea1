"""Whose a child is: names come back, owners do not.

An object that is deleted and created anew under its old name finds the children of its predecessor, which Kubernetes
is about to collect: what they say is about another spec.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]


def own(children: Iterable[Json], owner: Json) -> tuple[Json, ...]:
    """The children without what a deleted object of the same kind and name left behind."""
    found = tuple(children)
    left = {child["metadata"]["uid"] for child in found if of_predecessor(child, owner)}
    born = owner["metadata"]["creationTimestamp"]
    return tuple(
        child
        for child in found
        if child["metadata"]["uid"] not in left
        and not left & owner_uids(child)
        and not (child["kind"] == "Pod" and child["metadata"]["creationTimestamp"] < born)
    )


def of_predecessor(child: Json, owner: Json) -> bool:
    """Whether a child names an owner of this kind and name, and not this one."""
    named = {
        reference["uid"]
        for reference in child["metadata"].get("ownerReferences") or []
        if reference["kind"] == owner["kind"] and reference["name"] == owner["metadata"]["name"]
    }
    return bool(named) and owner["metadata"]["uid"] not in named


def of(pods: Iterable[Json], job: Json | None) -> list[Json]:
    """The pods of one Job; none of a Job that does not exist."""
    return [pod for pod in pods if job is not None and job["metadata"]["uid"] in owner_uids(pod)]


def owner_uids(manifest: Json) -> set[str]:
    """The uids of everything that owns an object."""
    return {reference["uid"] for reference in manifest["metadata"].get("ownerReferences") or []}
